/** Runs a built example in a process group of its own, with a deadline, and finds what it leaves behind. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { after, afterEach } from "mocha";

/** Only broken programs take as long, also on a busy machine. */
export const deadlineMilliseconds = 90_000;

const directories: string[] = [];
const running = new Set<Program>();

afterEach(() => {
  for (const program of running) program.signal("SIGKILL");
});

after(() => {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
});

/** A new runtime directory, removed at the end. */
export function runtimeDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "shm-bus-examples-"));
  directories.push(directory);
  return directory;
}

/** A process and what `/proc` tells of it. */
export interface Relative {
  readonly pid: number;
  readonly command: string;
}

function stat(
  pid: number,
): { readonly parent: number; readonly group: number; readonly zombie: boolean } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, parent, group] = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return { parent: Number(parent), group: Number(group), zombie: state === "Z" };
  } catch {
    return undefined;
  }
}

/** An example that runs. */
export class Program {
  stdout = "";
  stderr = "";
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  readonly pid: number;
  readonly #child: ChildProcess;

  /** @param file - below the built examples. */
  constructor(file: string, args: readonly string[], directory: string) {
    const path = fileURLToPath(new URL(`../dist/${file}`, import.meta.url));
    this.#child = spawn(process.execPath, [path, ...args], {
      // A group of its own: a signal to it is a Ctrl-C in its terminal.
      detached: true,
      env: { ...process.env, SHM_BUS_RUNTIME_DIR: directory },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.pid = this.#child.pid!;
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => (this.stdout += text));
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.stderr += text));
    running.add(this);
    const deadline = setTimeout(() => this.signal("SIGKILL"), deadlineMilliseconds);
    this.exited = new Promise((resolve, reject) => {
      this.#child.on("error", reject);
      this.#child.on("close", (code, signal) => {
        clearTimeout(deadline);
        running.delete(this);
        resolve({ code, signal });
      });
    });
  }

  /** Sends a signal to the whole group. */
  signal(signal: NodeJS.Signals): void {
    try {
      process.kill(-this.pid, signal);
    } catch {
      // All of it is gone.
    }
  }

  /** The processes of its group, itself included. */
  group(): Relative[] {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .filter((pid) => {
        const found = stat(pid);
        return found !== undefined && found.group === this.pid && !found.zombie;
      })
      .map((pid) => ({ pid, command: readCommand(pid) }));
  }

  /** Waits until nothing of its group is left. */
  async groupGone(): Promise<void> {
    await until(() => this.group().length === 0, "the processes ended");
  }
}

function readCommand(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

/** Looks again and again until `holds`. */
export async function until(holds: () => boolean, what: string): Promise<void> {
  const end = performance.now() + deadlineMilliseconds;
  while (!holds()) {
    assert.ok(performance.now() < end, `not in time: ${what}`);
    await sleep(10);
  }
}
