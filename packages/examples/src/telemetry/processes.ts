/** The parent's end of the fork channel: a child process, and calls to it. */
import { fork } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Call, CallsOf, FromChild } from "./protocol.ts";
import { leave } from "./protocol.ts";

/** The longest that a child may take for a call or to end, also on a busy machine. */
const patienceMilliseconds = 60_000;
/** A child that is no longer needed after a failure has so long to leave the bus. */
const departureMilliseconds = 5_000;

/** What a child is asked to do and whom it tells. */
export interface RoleOptions {
  /** What people call it, such as `recorder`. */
  readonly name: string;
  /** Its program, beside this one. */
  readonly file: string;
  /** Whether it writes to the parent's standard output. */
  readonly writes: boolean;
  /** Called at most once, with a sentence, if it ends or cannot go on before it was told to. */
  readonly onFailure: (sentence: string) => void;
  /** Called when it was asked to end the run. */
  readonly onStop: (signal: NodeJS.Signals) => void;
}

interface Waiting {
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** A forked child that plays one role. */
export class RoleProcess<C extends CallsOf<C>> {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #options: RoleOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #exited: Promise<void>;
  #calls = 0;
  #reason: string | undefined;
  #hasAnswered = false;
  #leaving = false;
  #isGone = false;

  constructor(options: RoleOptions) {
    this.name = options.name;
    this.#options = options;
    this.#child = fork(fileURLToPath(new URL(options.file, import.meta.url)), {
      stdio: ["ignore", options.writes ? "inherit" : "ignore", "inherit", "ipc"],
      serialization: "advanced",
    });
    this.#child.on("message", (message) => {
      this.#onMessage(message as FromChild);
    });
    this.#exited = new Promise((resolve) => {
      const gone = (sentence: string, signal: NodeJS.Signals | null): void => {
        if (this.#isGone) return;
        this.#isGone = true;
        this.#fail(sentence, signal);
        resolve();
      };
      this.#child.on("error", (error) => {
        // Also a call that could not be sent any more; then it is about to exit.
        if (this.#child.pid === undefined)
          gone(`The ${this.name} could not be started: ${error.message}.`, null);
      });
      this.#child.on("exit", (code, signal) => {
        const how = signal === null ? `exit code ${code}` : `killed by ${signal}`;
        const why = this.#reason === undefined ? "" : `: ${this.#reason}`;
        gone(`The ${this.name} died (${how})${why}.`, signal);
      });
    });
  }

  #onMessage(message: FromChild): void {
    switch (message.kind) {
      case "failure":
        this.#reason = message.reason;
        break;
      case "stop":
        this.#options.onStop(message.signal);
        break;
      default: {
        this.#hasAnswered = true;
        const waiting = this.#take(message.number);
        if (message.kind === "answer") waiting?.resolve(message.value as never);
        else waiting?.reject(new Error(`The ${this.name} failed: ${message.reason}.`));
      }
    }
  }

  #take(number: number): Waiting | undefined {
    const waiting = this.#waiting.get(number);
    this.#waiting.delete(number);
    clearTimeout(waiting?.timer);
    return waiting;
  }

  #fail(sentence: string, signal: NodeJS.Signals | null = null): void {
    for (const number of this.#waiting.keys()) this.#take(number)?.reject(new Error(sentence));
    if (this.#leaving) return;
    this.#leaving = true;
    // A Ctrl-C for all before this child could see to it: the run was interrupted, nothing failed.
    const interrupted = signal === "SIGINT" || signal === "SIGTERM" || signal === "SIGHUP";
    if (interrupted && !this.#hasAnswered) this.#options.onStop(signal);
    else this.#options.onFailure(sentence);
  }

  #call(method: string, argument: unknown): Promise<never> {
    return new Promise((resolve, reject) => {
      const number = (this.#calls += 1);
      const timer = setTimeout(() => {
        this.#take(number);
        reject(
          new Error(`The ${this.name} has not answered to "${method}" for ${patienceMilliseconds / 1e3} s.`),
        );
      }, patienceMilliseconds);
      this.#waiting.set(number, { resolve, reject, timer });
      const call: Call = { kind: "call", number, method, argument };
      if (this.#isGone) this.#take(number)?.reject(new Error(`The ${this.name} has ended.`));
      else this.#child.send(call, () => {});
    });
  }

  /** Calls the child. @throws Error with a sentence if it cannot answer. */
  call<M extends keyof C & string>(
    method: M,
    ...[argument]: Parameters<C[M]>
  ): Promise<Awaited<ReturnType<C[M]>>> {
    return this.#call(method, argument);
  }

  /** Takes the child off the bus and waits for its end. */
  async leave(): Promise<void> {
    this.#leaving = true;
    await this.#call(leave, undefined);
    await this.#exited;
  }

  /** Ends the child whatever its state: lets it close its bus, unless `atOnce`, and waits until it is gone. */
  async end(atOnce: boolean): Promise<void> {
    this.#leaving = true;
    if (this.#isGone) return;
    if (atOnce) this.#child.kill("SIGKILL");
    else this.#call(leave, undefined).catch(() => {});
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), departureMilliseconds);
    await this.#exited;
    clearTimeout(timer);
  }
}
