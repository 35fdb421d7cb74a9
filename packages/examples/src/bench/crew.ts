/** The JavaScript processes of one measurement: started, held until all are ready, heard, and let go. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import type { FromMember, Result, Task, ToMember } from "./task.ts";

const member = fileURLToPath(
  new URL(import.meta.url.endsWith(".ts") ? "member.ts" : "member.js", import.meta.url),
);
/** How long a measurement may take beyond its own time. Milliseconds. */
const grace = 30_000;

type Role = Task extends infer One ? (One extends Task ? Omit<One, "directory" | "crowded"> : never) : never;

/** Whether `count` spinning processes do not have a processor each. */
export function isCrowded(count: number): boolean {
  return count > os.availableParallelism();
}

class Member {
  readonly #child: ChildProcess;
  readonly #heard: FromMember[] = [];
  #failure: Error | undefined;
  #wake: (() => void) | undefined;
  readonly #gone: Promise<void>;

  constructor(native: string, index: number, size: number) {
    const program = [process.execPath, ...process.execArgv, member];
    this.#child = spawn(native, ["pinned", `${index}/${size}`, ...program], {
      stdio: ["ignore", 2, 2, "ipc"],
    });
    this.#child.on("message", (message) => {
      this.#heard.push(message as FromMember);
      this.#wake?.();
    });
    this.#gone = new Promise((resolve) => {
      const end = (failure: Error) => {
        this.#failure ??= failure;
        this.#wake?.();
        resolve();
      };
      this.#child.on("error", end);
      this.#child.on("exit", (code, signal) =>
        end(new Error(`process ${index} ended with ${code ?? signal}`)),
      );
    });
  }

  tell(message: ToMember): void {
    this.#child.send(message);
  }

  async hear(): Promise<FromMember> {
    const deadline = setTimeout(() => {
      this.#failure ??= new Error("a measurement did not end in time");
      this.#wake?.();
    }, grace);
    try {
      while (this.#heard.length === 0) {
        if (this.#failure !== undefined) throw this.#failure;
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
      return this.#heard.shift() as FromMember;
    } finally {
      clearTimeout(deadline);
    }
  }

  async leave(): Promise<void> {
    if (this.#child.connected) this.tell("leave");
    await this.#gone;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }
}

/** Runs one process for each of `roles` and gives what they measured, in the same order. */
export async function runCrew(native: string, roles: readonly Role[]): Promise<Result[]> {
  const directory = mkdtempSync(join(os.tmpdir(), "shm-bus-bench-"));
  const crowded = isCrowded(roles.length);
  const members = roles.map((_, index) => new Member(native, index, roles.length));
  try {
    // One after the other, so that the first is the master in every run.
    for (const [index, role] of roles.entries()) {
      const one = members[index] as Member;
      one.tell({ task: { ...role, directory, crowded } as Task });
      await one.hear();
    }
    for (const one of members) one.tell("go");
    const answers = await Promise.all(members.map((one) => one.hear()));
    await Promise.all(members.map((one) => one.leave()));
    return answers.map((answer) => ("result" in answer ? answer.result : {}));
  } finally {
    for (const one of members) one.kill();
    rmSync(directory, { recursive: true, force: true });
  }
}
