import { atomicsWait } from "@shm-bus/native";

import { checkElement, checkTimeout, checkValue } from "./arguments.ts";

/** How a wait ended. `"ok"`: woken, or the word has changed while waiting; look at it again. */
export type WaitResult = "ok" | "not-equal" | "timed-out";

/** What the native call gives. */
export const outcome: { woken: 0; changed: 1; timedOut: 2; interrupted: 3; cancelled: 4 } = {
  woken: 0,
  changed: 1,
  timedOut: 2,
  interrupted: 3,
  cancelled: 4,
};

/** A thread asleep in the kernel cannot be terminated: it comes back to JavaScript this often. */
const sliceMilliseconds = 50;

/**
 * Blocks the calling thread while `view[index]` is `value`, until a {@link notify} of the same word by any process, or for
 * `timeout` milliseconds (none: for ever).
 *
 * `"not-equal"` if the word had another value to begin with. `"ok"` also where the word changed while waiting and nobody
 * notified.
 *
 * @throws TypeError if `view` is no Int32Array or its buffer is detached; RangeError if `index` is not in it.
 */
export function wait(view: Int32Array, index: number, value: number, timeout?: number): WaitResult {
  checkElement(view, index);
  checkValue(value);
  const total = checkTimeout(timeout);
  const end = total === Infinity ? Infinity : performance.now() + total;
  let left = total;
  for (let first = true; ; first = false) {
    switch (atomicsWait(view, index, value, Math.min(left, sliceMilliseconds))) {
      case outcome.woken:
        return "ok";
      case outcome.changed:
        return first ? "not-equal" : "ok";
      default:
    }
    left = end - performance.now();
    if (left <= 0) return "timed-out";
  }
}
