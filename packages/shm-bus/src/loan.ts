import { inspect } from "node:util";

import type { NativeBus } from "@shm-bus/native";

import { invalidOption, ShmBusError, translated } from "./errors.ts";

/**
 * Space in the publisher's own ring. Write into {@link Loan.bytes}, then {@link Loan.publish}; readers see it in place.
 * Disposing a loan that was not published gives it up. While it is held nothing behind it is freed.
 */
export class Loan implements Disposable {
  readonly #native: NativeBus;
  readonly #number: number;
  readonly #published: (stamp: number) => void;
  #bytes: Uint8Array | undefined;

  /** @internal */
  constructor(native: NativeBus, number: number, bytes: Uint8Array, published: (stamp: number) => void) {
    this.#native = native;
    this.#number = number;
    this.#bytes = bytes;
    this.#published = published;
  }

  /** The space to fill. Its content is what was there before. */
  get bytes(): Uint8Array {
    if (this.#bytes === undefined) {
      throw new ShmBusError(
        "ERR_SHM_BUS_LOAN_ENDED",
        "the loan was published or given up already; take a new one",
      );
    }
    return this.#bytes;
  }

  /**
   * Publishes the first `byteLength` bytes (all by default) and returns the stamp. If there is no room, or the bus
   * refuses it, the loan is given up; a wrong `byteLength` leaves it as it is.
   *
   * @throws {ShmBusError} as {@link Bus.publish}
   */
  publish(byteLength: number = this.bytes.byteLength, topic = 0n): number {
    const available = this.bytes.byteLength;
    if (!Number.isInteger(byteLength) || byteLength < 0 || byteLength > available) {
      throw new ShmBusError(
        "ERR_SHM_BUS_INVALID_DATA",
        `a loan of ${available} bytes cannot be published with ${byteLength}`,
      );
    }
    const [low, high] = halves(topic);
    this.#bytes = undefined;
    const stamp = translated(() => this.#native.publishLoan(this.#number, byteLength, low, high));
    if (stamp < 0) throw wouldBlock();
    this.#published(stamp);
    return stamp;
  }

  /** Gives the loan up, if it was not published. */
  [Symbol.dispose](): void {
    if (this.#bytes === undefined) return;
    this.#bytes = undefined;
    this.#native.abandonLoan(this.#number);
  }

  [inspect.custom](): string {
    return this.#bytes === undefined ? "Loan (ended)" : `Loan { byteLength: ${this.#bytes.byteLength} }`;
  }
}

/** The two halves of a 64-bit word. */
export function halves(topic: bigint): [low: number, high: number] {
  if (topic === 0n) return [0, 0];
  if (typeof topic !== "bigint") throw invalidOption("topic", "must be a bigint");
  const word = BigInt.asUintN(64, topic);
  return [Number(word & 0xffff_ffffn), Number(word >> 32n)];
}

export function wouldBlock(): ShmBusError {
  return new ShmBusError(
    "ERR_SHM_BUS_WOULD_BLOCK",
    "there is no room for a message now: a reader is behind; await bus.writable() and try again",
  );
}
