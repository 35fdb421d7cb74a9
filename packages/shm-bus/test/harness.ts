import assert from "node:assert/strict";
import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type AttachOptions, Bus, ShmBusError, type ShmBusErrorCode, type To } from "../src/index.ts";
import type { Answer, Failure, Methods } from "./fixtures/attachment.ts";

/** Small memories: the tests fill rings. */
export const small = { ringBytes: 1 << 16, headers: 64, slots: 1 << 12 } as const satisfies AttachOptions;

/** The longest life of a child: it is killed then, and the test fails. */
const childDeadline = 60_000;

export const encode = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

/** Waits for what has to become true without an event that tells so. */
export async function eventually(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + childDeadline;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `never came true: ${condition.toString()}`);
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}

/** Waits until these are the attachments on the bus: the master writes the directory after it has told of a change. */
export function peersAre(bus: Bus, addresses: readonly string[]): Promise<void> {
  const wanted = addresses.toSorted().join();
  return eventually(
    () =>
      wanted ===
      bus
        .peers()
        .map(({ address }) => address)
        .sort()
        .join(),
  );
}

/** An error that a child reported. */
export class RemoteError extends Error {
  readonly code: string | undefined;
  readonly syscall: string | undefined;
  readonly errno: number | undefined;

  constructor({ name, message, code, syscall, errno }: Failure) {
    super(message);
    this.name = name;
    this.code = code;
    this.syscall = syscall;
    this.errno = errno;
  }
}

type Remoted<F> = F extends (...args: infer A) => infer R ? (...args: A) => Promise<Awaited<R>> : never;

/** The methods of `fixtures/attachment.ts`, called in another process. */
export type Remote = { readonly [K in keyof Methods]: Remoted<Methods[K]> };

/** How a child ended: its exit code, or the signal that killed it. */
export type Ending = number | NodeJS.Signals;

/** A child process with a deadline. */
export class Child {
  readonly process: ChildProcess;
  readonly ended: Promise<Ending>;
  readonly #timer: NodeJS.Timeout;
  #overrun = false;
  #output = "";

  constructor(process: ChildProcess) {
    this.process = process;
    for (const stream of [process.stdout, process.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#output += text;
      });
    }
    this.#timer = setTimeout(() => {
      this.#overrun = true;
      process.kill("SIGKILL");
    }, childDeadline);
    this.ended = once(process, "close").then(([code, signal]) => {
      clearTimeout(this.#timer);
      return (code ?? signal) as Ending;
    });
  }

  get pid(): number {
    return this.process.pid as number;
  }

  /** What it has printed. */
  get output(): string {
    return this.#output;
  }

  /** Stops it: when this returns, none of its threads runs. */
  async pause(): Promise<void> {
    this.process.kill("SIGSTOP");
    const tasks = `/proc/${this.pid}/task`;
    const isStopped = (task: string) => readFileSync(`${tasks}/${task}/stat`, "utf8").includes(") T ");
    await eventually(() => readdirSync(tasks).every(isStopped));
  }

  /** Lets it go on. */
  resume(): void {
    this.process.kill("SIGCONT");
  }

  kill(): Promise<Ending> {
    this.process.kill("SIGKILL");
    return this.ended;
  }

  /** Waits for its end and checks it. */
  async expect(ending: Ending): Promise<void> {
    const got = await this.ended;
    assert.ok(!this.#overrun, `child ${this.pid} took longer than ${childDeadline} ms\n${this.#output}`);
    assert.equal(got, ending, this.#output);
  }
}

/** An attached child and its address. */
export type Member = Attachment & { readonly address: string; readonly id: string };

/** A child that runs `fixtures/attachment.ts`. */
export class Attachment extends Child {
  readonly call: Remote;
  #next = 0;
  readonly #waiting = new Map<
    number,
    { what: string; resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();

  constructor(process: ChildProcess) {
    super(process);
    process.on("message", ({ id, result, failure }: Answer) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (failure === undefined) waiting?.resolve(result);
      else waiting?.reject(new RemoteError(failure));
    });
    void this.#refuseLateAnswers();
    this.call = new Proxy({} as Remote, {
      get:
        (_target, method: keyof Methods) =>
        (...args: unknown[]) =>
          this.#send(method, args),
    });
  }

  async #refuseLateAnswers(): Promise<void> {
    const ending = await this.ended;
    for (const { what, reject } of this.#waiting.values()) {
      reject(new Error(`the child ended with ${ending} before it answered ${what}\n${this.output}`));
    }
  }

  #send(method: keyof Methods, args: unknown[]): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { what: `${method}(${JSON.stringify(args)})`, resolve, reject });
      this.process.send({ id, method, args }, (error) => {
        if (error !== null) reject(error);
      });
    });
  }

  /** Asks it to do what ends it; an answer may not come any more. */
  ask(method: keyof Methods, ...args: unknown[]): void {
    this.process.send({ id: -1, method, args });
  }

  /** Lets it close its attachment and end by itself. */
  async end(): Promise<void> {
    if (this.process.connected) this.ask("end");
    await this.expect(0);
  }
}

const collectGarbage = (() => {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
})();

const map = "map of memfd:shm-bus";

/** What this process holds of what a bus needs: open files by kind, and maps of its memories. */
function holdings(): Record<string, number> {
  const held: Record<string, number> = {};
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      const kind = readlinkSync(`/proc/self/fd/${fd}`).replace(/:\[\d+\]$/, "");
      // Other files are the test runner's own: compiled sources come and go.
      if (/^(socket|pipe|anon_inode|\/memfd)|\/shm-bus-[^/]*($|\/)/.test(kind))
        held[kind] = (held[kind] ?? 0) + 1;
    } catch {
      // The descriptor that the list itself was read from.
    }
  }
  for (const line of readFileSync("/proc/self/maps", "utf8").split("\n")) {
    if (line.includes("memfd:shm-bus")) held[map] = (held[map] ?? 0) + 1;
  }
  return held;
}

/** What a test has: a private runtime directory, and children and attachments that end with it. */
export class Scene {
  readonly directory = mkdtempSync(join(tmpdir(), "shm-bus-"));
  readonly #before = holdings();
  readonly #children = new Set<Child>();
  readonly #buses = new Set<Bus<unknown>>();

  /** Attaches this process. */
  async attach<T = Uint8Array>(name = "test", options: AttachOptions<T> = {}): Promise<Bus<T>> {
    const bus = await Bus.attach<T>(name, { ...small, runtimeDirectory: this.directory, ...options });
    this.#buses.add(bus as Bus<unknown>);
    return bus;
  }

  /** A child that can attach, not attached yet. */
  start(options: { uid?: number } = {}): Attachment {
    const path = fileURLToPath(new URL("fixtures/attachment.ts", import.meta.url));
    const child = new Attachment(
      fork(path, [], {
        execArgv: ["--import", "tsx"],
        serialization: "advanced",
        stdio: ["ignore", "pipe", "pipe", "ipc"],
        env: { ...process.env, SHM_BUS_RUNTIME_DIR: this.directory },
        ...options,
      }),
    );
    this.#children.add(child);
    return child;
  }

  /** A child that has attached. */
  async join(name = "test", options: AttachOptions = {}): Promise<Member> {
    const child = this.start();
    const { address, id } = await child.call.attach(name, { ...small, ...options });
    return Object.assign(child, { address, id });
  }

  /** `count` children that attach at the same time. */
  joinMany(count: number, name = "test"): Promise<Member[]> {
    return Promise.all(Array.from({ length: count }, () => this.join(name)));
  }

  /** Runs another fixture to its end, behind `wrapper` (a command that runs the rest of its arguments). */
  run(fixture: string, args: string[] = [], wrapper: string[] = []): Child {
    const path = fileURLToPath(new URL(`fixtures/${fixture}`, import.meta.url));
    const [command, ...rest] = [...wrapper, process.execPath, "--import", "tsx", path, ...args] as [string];
    const child = new Child(
      spawn(command, rest, {
        stdio: ["ignore", "pipe", "pipe"],
        env: { ...process.env, SHM_BUS_RUNTIME_DIR: this.directory },
      }),
    );
    this.#children.add(child);
    return child;
  }

  /** Names in the runtime directory. */
  files(): string[] {
    return readdirSync(this.directory);
  }

  /** Ends everybody, and finds out whether anything is left. */
  async end(): Promise<void> {
    for (const child of this.#children) {
      if (child.process.exitCode !== null || child.process.signalCode !== null) continue;
      if (child instanceof Attachment) await child.end();
      else await child.expect(0);
    }
    await Promise.all([...this.#buses].map((bus) => bus.close()));
    this.#buses.clear();
    assert.deepEqual(this.files(), [], "files in the runtime directory");
    for (const { pid } of this.#children) {
      assert.throws(() => process.kill(pid, 0), { code: "ESRCH" }, `child ${pid} is left`);
    }
    await this.#settle();
    assert.deepEqual(holdings(), this.#before, "open files and maps");
  }

  /** Lets the collector let go of what the test used. */
  async #settle(): Promise<void> {
    const settled = () => {
      collectGarbage();
      return isDeepStrictEqual(holdings(), this.#before);
    };
    // What is left is told by the assertion.
    await eventually(settled).catch(() => {});
  }

  /** After a failure: nobody is left to disturb the next test. */
  async abandon(): Promise<void> {
    for (const child of this.#children) await child.kill();
    await Promise.allSettled([...this.#buses].map((bus) => bus.close()));
    this.#buses.clear();
    await this.#settle();
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Publishes, waiting for room. */
export async function publishSoon(bus: Bus, to: To, value: Uint8Array): Promise<number> {
  for (;;) {
    try {
      return bus.publish(to, value);
    } catch (error) {
      failsWith("ERR_SHM_BUS_WOULD_BLOCK")(error);
      await bus.writable();
    }
  }
}

/** A test with a scene of its own, which must leave nothing behind. */
export function scene(title: string, body: (scene: Scene) => Promise<void>): void {
  it(title, async function () {
    this.timeout(4 * childDeadline);
    const scene = new Scene();
    let timer: NodeJS.Timeout | undefined;
    // Not by mocha's own timeout: what the test has begun has to end in any case.
    const overrun = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () => reject(new Error(`the test took longer than ${2 * childDeadline} ms`)),
        2 * childDeadline,
      );
    });
    try {
      await Promise.race([body(scene).then(() => scene.end()), overrun]);
    } catch (error) {
      await scene.abandon();
      throw error;
    } finally {
      clearTimeout(timer);
      scene.remove();
    }
  });
}

/** What `assert.throws` and `assert.rejects` take for a ShmBusError of one code. */
export function failsWith(code: ShmBusErrorCode, details: { syscall?: string; errno?: number } = {}) {
  return (error: unknown): true => {
    assert.ok(
      error instanceof ShmBusError || error instanceof RemoteError,
      `${String(error)} is no ShmBusError`,
    );
    assert.equal(error.name, "ShmBusError", error.stack);
    assert.equal(error.code, code, error.message);
    for (const [key, value] of Object.entries(details))
      assert.equal(error[key as "syscall" | "errno"], value);
    assert.ok(error.message.length > 10);
    return true;
  };
}
