// What the functions take: the same as ECMAScript's Atomics, but nothing is converted from other types in silence.

function fail(ErrorType: typeof TypeError | typeof RangeError, code: string, message: string): never {
  throw Object.assign(new ErrorType(message), { code });
}

export function invalidType(name: string, expected: string, value: unknown): never {
  const kind = value === null ? "null" : typeof value;
  fail(TypeError, "ERR_INVALID_ARG_TYPE", `${name} must be ${expected}, not ${kind}`);
}

export function outOfRange(message: string): never {
  fail(RangeError, "ERR_OUT_OF_RANGE", message);
}

function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    buffer.slice(0, 0);
    return false;
  } catch {
    return true;
  }
}

export function checkElement(view: Int32Array, index: number): void {
  if (!(view instanceof Int32Array)) {
    // An array of another realm (node:vm) is one all the same.
    if (Object.prototype.toString.call(view) !== "[object Int32Array]") {
      invalidType("view", "an Int32Array", view);
    }
  }
  if (typeof index !== "number") invalidType("index", "a number", index);
  if (!Number.isInteger(index) || index < 0 || index >= view.length) {
    if (view.length === 0 && isDetached(view.buffer)) {
      fail(TypeError, "ERR_INVALID_STATE", "the buffer of view is detached");
    }
    outOfRange(`index must be an integer from 0 to ${view.length - 1}, not ${index}`);
  }
}

export function checkValue(value: number): void {
  if (typeof value !== "number") invalidType("value", "a number", value);
}

/** Milliseconds as Atomics reads them: none and NaN are for ever, less than 0 is 0. */
export function checkTimeout(timeout: number | undefined): number {
  if (timeout === undefined) return Infinity;
  if (typeof timeout !== "number") invalidType("timeout", "a number of milliseconds", timeout);
  return Number.isNaN(timeout) ? Infinity : Math.max(timeout, 0);
}
