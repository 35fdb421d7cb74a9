import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { Worker } from "node:worker_threads";

const programs = join(import.meta.dirname, "programs");

/** A child with a deadline: killed by SIGKILL after it, which no test expects. */
export function child(program: string, argument: string, fd?: number): ChildProcess {
  const stdio: ("ignore" | "inherit" | number)[] = ["ignore", "inherit", "inherit"];
  if (fd !== undefined) stdio.push(fd);
  const path = program.startsWith("/") ? program : join(programs, program);
  return spawn(process.execPath, [path, argument], { stdio, timeout: 18_000, killSignal: "SIGKILL" });
}

export async function ending(process: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  const [code, signal] = (await once(process, "exit")) as [number | null, string | null];
  return { code, signal };
}

/** A worker of the built package, once it is ready. */
export async function worker(data: {
  buffer: ArrayBufferLike;
  how: string;
  count?: number;
}): Promise<Worker> {
  const started = new Worker(join(programs, "waiter.mjs"), { workerData: data, execArgv: [] });
  await once(started, "message");
  return started;
}
