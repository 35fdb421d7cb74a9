// How threads wait for each other: by the functions of ECMAScript's Atomics, or by others of the same signatures.

type AsyncResult =
  | { async: false; value: "not-equal" | "timed-out" }
  | { async: true; value: Promise<"ok" | "timed-out"> };

/** `Atomics` between the threads of one process; the package `atomics-wait` between processes. */
export interface Waiting {
  wait(view: Int32Array, index: number, value: number, timeout?: number): "ok" | "not-equal" | "timed-out";
  waitAsync?(view: Int32Array, index: number, value: number, timeout?: number): AsyncResult;
  notify(view: Int32Array, index: number, count?: number): number;
}

/** Works on a SharedArrayBuffer only: a wait on another buffer throws a TypeError. */
export const threads: Waiting = Atomics as unknown as Waiting;
