/** What the figures were measured on. */
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly kernel: string;
  readonly node: string;
  /** Load average of the last minute before the benchmark. */
  readonly load: number;
  /** Share of the processors that others used just before, 0 to 1. */
  readonly used: number;
  /** Whether others leave too little of the machine for the figures to mean much. */
  readonly busy: boolean;
}

function processorTimes(): { idle: number; all: number } {
  let [idle, all] = [0, 0];
  for (const { times } of os.cpus()) {
    idle += times.idle;
    all += times.user + times.nice + times.sys + times.irq + times.idle;
  }
  return { idle, all };
}

/** Looks at the machine for `milliseconds`, doing nothing meanwhile. */
export async function describeMachine(milliseconds: number): Promise<Machine> {
  const before = processorTimes();
  await sleep(milliseconds);
  const after = processorTimes();
  const cores = os.availableParallelism();
  const load = os.loadavg()[0] as number;
  const used = 1 - (after.idle - before.idle) / Math.max(after.all - before.all, 1);
  return {
    cpu: os.cpus()[0]?.model.trim() ?? os.machine(),
    cores,
    kernel: os.release(),
    node: process.version,
    load,
    used,
    busy: load > cores / 2 || used > 0.2,
  };
}

/** One line, and a second one if the machine is busy. */
export function machineText(machine: Machine): string {
  const { cpu, cores, kernel, node, load, used, busy } = machine;
  const line = `${cpu}, ${cores} cores, Linux ${kernel}, Node.js ${node}, load ${load.toFixed(2)} before`;
  if (!busy) return line;
  const share = Math.round(used * 100);
  return `${line}\nBUSY: a load above half the cores, or others at work (${share} % used just before): expect wide ranges.`;
}
