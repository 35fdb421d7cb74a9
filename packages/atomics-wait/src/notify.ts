import { atomicsNotify } from "@shm-bus/native";

import { checkElement, invalidType } from "./arguments.ts";

/**
 * Wakes up to `count` (none: all) of those who wait on `view[index]`, in whichever process and through whichever mapping,
 * and gives how many. Change the word first.
 *
 * @throws TypeError if `view` is no Int32Array or its buffer is detached; RangeError if `index` is not in it.
 */
export function notify(view: Int32Array, index: number, count?: number): number {
  checkElement(view, index);
  if (count === undefined) return atomicsNotify(view, index, Infinity);
  if (typeof count !== "number") invalidType("count", "a number", count);
  const whole = Math.trunc(count);
  return whole > 0 ? atomicsNotify(view, index, whole) : 0;
}
