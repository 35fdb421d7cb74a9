/** A child's end of the fork channel. To be imported first: it sees to the signals. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Call, CallsOf, FromChild } from "./protocol.ts";
import { leave, reasonOf } from "./protocol.ts";

const parent = process.ppid;

// Ctrl-C and a closed terminal go to all processes of the group. The parent gets them too, and it decides.
process.on("SIGINT", () => {});
process.on("SIGHUP", () => {});
process.on("SIGTERM", () => {
  askToStop("SIGTERM");
});

/** Without a parent to wait for it, a child has so long to close its bus. */
const departureMilliseconds = 3_000;

/** Sends to the parent, if there still is one. */
function tell(message: FromChild, sent: () => void = () => {}): void {
  if (process.connected) process.send?.(message, undefined, undefined, sent);
  else sent();
}

/** Asks the parent to end the run. */
export function askToStop(signal: NodeJS.Signals): void {
  tell({ kind: "stop", signal });
}

/**
 * Waits, if the channel is closed, until the parent is gone altogether. A process that dies lets go of its files one
 * by one, the channel before its lock on the bus: who closes the bus meanwhile cannot know to be the last there, and
 * would leave socket and lock file behind.
 */
async function parentGone(): Promise<void> {
  while (!process.connected && process.ppid === parent) await sleep(1);
}

/**
 * Answers the parent's calls. The process ends, after `close`, when the parent says so or is gone.
 *
 * @param close - takes this process off the bus; called once.
 */
export function serve<C extends CallsOf<C>>(handlers: C, close: () => Promise<void>): void {
  let left = false;

  async function answer({ number, method, argument }: Call): Promise<void> {
    try {
      if (method === leave) {
        if (left) return;
        left = true;
        await close();
        tell({ kind: "answer", number, value: undefined }, () => {
          process.disconnect();
        });
        return;
      }
      const handler = handlers[method as keyof C] as (argument: never) => Promise<unknown>;
      tell({ kind: "answer", number, value: await handler(argument as never) });
    } catch (error) {
      tell({ kind: "refusal", number, reason: reasonOf(error) });
    }
  }

  /** Takes this process off the bus and ends it. */
  function depart(): void {
    if (left) return;
    left = true;
    setTimeout(() => process.exit(1), departureMilliseconds);
    void parentGone()
      .then(close)
      .finally(() => process.exit(1));
  }

  process.on("message", (call: Call) => void answer(call));
  process.on("disconnect", depart);
  process.on("uncaughtException", (error) => {
    tell({ kind: "failure", reason: reasonOf(error) }, depart);
  });
}
