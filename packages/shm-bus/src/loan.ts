import { inspect } from "node:util";

import type { NativeBus } from "@shm-bus/native";

import { invalidOption, ShmBusError, translated } from "./errors.ts";

/** What a loan asks of its bus. */
export interface LoanHost {
  /** Throws if nothing can be published by a loan now. */
  check(): void;
  published(stamp: number): void;
}

/** Gives up the loans that a program has dropped: nobody has their bytes any more, so nobody can publish them. */
const dropped = new FinalizationRegistry<{ native: NativeBus; number: number }>(({ native, number }) =>
  native.abandonLoan(number),
);

const mostYoung = 256;

/**
 * Space in the publisher's own ring. Write into {@link Loan.bytes}, then {@link Loan.publish}; readers see it in place.
 * Disposing a loan that was not published gives it up, and so does the collector with one that was dropped, its
 * `bytes` included: another view of the same memory does not count. While it is held nothing behind it is freed.
 */
export class Loan implements Disposable {
  /** Loans that the registry does not know yet: to register one costs half as much as all the rest of it. */
  static readonly #young: Loan[] = [];
  readonly #native: NativeBus;
  readonly #number: number;
  readonly #host: LoanHost;
  readonly #capacity: number;
  #bytes: Uint8Array | undefined;
  #registered = false;

  /** @internal */
  constructor(native: NativeBus, number: number, bytes: Uint8Array, host: LoanHost) {
    this.#native = native;
    this.#number = number;
    this.#bytes = bytes;
    this.#capacity = bytes.byteLength;
    this.#host = host;
    const count = Loan.#young.push(this);
    if (count === 1) queueMicrotask(Loan.#register);
    else if (count === mostYoung) Loan.#register();
  }

  /** Registers those that have outlived the call in which they were taken: most are published in it. */
  static #register(this: void): void {
    for (const loan of Loan.#young) {
      const bytes = loan.#bytes;
      if (bytes === undefined) continue;
      loan.#registered = true;
      dropped.register(bytes, { native: loan.#native, number: loan.#number }, bytes);
    }
    Loan.#young.length = 0;
  }

  /** Ends it for the program. */
  #end(): void {
    if (this.#registered && this.#bytes !== undefined) dropped.unregister(this.#bytes);
    this.#bytes = undefined;
  }

  /** The space to fill. Its content is what was there before. */
  get bytes(): Uint8Array {
    if (this.#bytes === undefined) throw loanEnded();
    return this.#bytes;
  }

  /**
   * Publishes the first `byteLength` bytes (all by default) and returns the stamp. If there is no room, or the bus
   * refuses it, the loan is given up; a wrong `byteLength` leaves it as it is.
   *
   * @throws {ShmBusError} as {@link Bus.publish}
   */
  publish(byteLength: number = this.#capacity, topic = 0n): number {
    if (this.#bytes === undefined) throw loanEnded();
    if (!Number.isInteger(byteLength) || byteLength < 0 || byteLength > this.#capacity) {
      throw new ShmBusError(
        "ERR_SHM_BUS_INVALID_DATA",
        `a loan of ${this.#capacity} bytes cannot be published with ${byteLength}`,
      );
    }
    this.#host.check();
    const [low, high] = halves(topic);
    this.#end();
    const stamp = translated(() => this.#native.publishLoan(this.#number, byteLength, low, high));
    if (stamp < 0) throw wouldBlock();
    this.#host.published(stamp);
    return stamp;
  }

  /** Gives the loan up, if it was not published. */
  [Symbol.dispose](): void {
    if (this.#bytes === undefined) return;
    this.#end();
    this.#native.abandonLoan(this.#number);
  }

  [inspect.custom](): string {
    return this.#bytes === undefined ? "Loan (ended)" : `Loan { byteLength: ${this.#capacity} }`;
  }
}

/** The two halves of a 64-bit word. */
export function halves(topic: bigint): [low: number, high: number] {
  if (topic === 0n) return [0, 0];
  if (typeof topic !== "bigint") throw invalidOption("topic", "must be a bigint");
  const word = BigInt.asUintN(64, topic);
  return [Number(word & 0xffff_ffffn), Number(word >> 32n)];
}

function loanEnded(): ShmBusError {
  return new ShmBusError(
    "ERR_SHM_BUS_LOAN_ENDED",
    "the loan was published or given up already; take a new one",
  );
}

export function wouldBlock(): ShmBusError {
  return new ShmBusError(
    "ERR_SHM_BUS_WOULD_BLOCK",
    "there is no room for a message now: a reader is behind; await bus.writable() and try again",
  );
}
