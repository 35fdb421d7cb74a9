import { AtomicsWaiters } from "@shm-bus/native";

import { checkElement, checkTimeout, checkValue, invalidType, outOfRange } from "./arguments.ts";
import { outcome } from "./wait.ts";

/** As the result of ECMAScript's `Atomics.waitAsync`. */
export type WaitAsyncResult =
  | { async: false; value: "not-equal" | "timed-out" }
  | { async: true; value: Promise<"ok" | "timed-out"> };

export interface WaitAsyncOptions {
  /** Milliseconds; none: for ever. */
  readonly timeout?: number | undefined;
  /** Ends the wait: the promise is rejected with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

interface Pending {
  /** Keeps the memory. */
  readonly view: Int32Array;
  readonly settle: (result: "ok" | "timed-out") => void;
}

/** Waits that an environment may have pending unless it says otherwise: each has a thread of its own. */
export const defaultMaxPending = 64;

let maxPending = defaultMaxPending;
let waiters: AtomicsWaiters | undefined;
const waits = new Map<number, Pending>();

/** How many asynchronous waits of this thread are pending. */
export function pending(): number {
  return waits.size;
}

/** Sets how many asynchronous waits this thread may have pending, 1 to 1024. */
export function setMaxPending(count: number): void {
  if (typeof count !== "number") invalidType("count", "a number", count);
  if (!Number.isInteger(count) || count < 1 || count > 1024) {
    outOfRange(`count must be an integer from 1 to 1024, not ${count}`);
  }
  maxPending = count;
}

function ended(number: number, code: number): void {
  const wait = waits.get(number);
  // Unknown: it was aborted while the report was on its way.
  if (wait === undefined) return;
  waits.delete(number);
  wait.settle(code === outcome.timedOut ? "timed-out" : "ok");
}

/**
 * Waits while `view[index]` is `value` without blocking: like ECMAScript's `Atomics.waitAsync`, but for a {@link notify} by
 * any process. A pending wait does not keep the process alive.
 *
 * The promise resolves to `"ok"` also where the word changed and nobody notified. It is rejected only by the signal.
 *
 * @throws TypeError, RangeError as {@link wait}; the signal's reason if it is aborted already; an Error with the code
 * `ERR_ATOMICS_WAIT_TOO_MANY` if as many waits are pending as may be.
 */
export function waitAsync(
  view: Int32Array,
  index: number,
  value: number,
  options?: number | WaitAsyncOptions,
): WaitAsyncResult {
  checkElement(view, index);
  checkValue(value);
  if (
    options === null ||
    (options !== undefined && typeof options !== "object" && typeof options !== "number")
  ) {
    invalidType("options", "a number of milliseconds or an object", options);
  }
  const { timeout, signal } = typeof options === "object" ? options : { timeout: options, signal: undefined };
  const milliseconds = checkTimeout(timeout);
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    invalidType("options.signal", "an AbortSignal", signal);
  }
  signal?.throwIfAborted();

  // oxlint-disable-next-line no-bitwise
  const expected = value | 0;
  if (Atomics.load(view, index) !== expected) return { async: false, value: "not-equal" };
  if (milliseconds === 0) return { async: false, value: "timed-out" };
  if (waits.size >= maxPending) {
    throw Object.assign(
      new Error(
        `${waits.size} asynchronous waits are pending, which is the limit of this thread: ` +
          "wait on fewer words, or raise it with setMaxPending()",
      ),
      { code: "ERR_ATOMICS_WAIT_TOO_MANY" },
    );
  }
  waiters ??= new AtomicsWaiters(ended);
  const native = waiters;
  const number = native.start(view, index, expected, milliseconds);
  const promise = new Promise<"ok" | "timed-out">((resolve, reject) => {
    const abort = (): void => {
      waits.delete(number);
      // A wake that was there first is not lost: its notifier has counted this wait.
      const code = native.cancel(number);
      if (code === outcome.woken || code === outcome.changed) resolve("ok");
      else reject(signal?.reason as Error);
    };
    const settle = (result: "ok" | "timed-out"): void => {
      signal?.removeEventListener("abort", abort);
      resolve(result);
    };
    waits.set(number, { view, settle });
    signal?.addEventListener("abort", abort, { once: true });
  });
  return { async: true, value: promise };
}
