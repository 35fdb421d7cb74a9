import type { NativeBus } from "@shm-bus/native";

import { ShmBusError } from "./errors.ts";

/**
 * The ArrayBuffers over this attachment's memory and the others': one for each memory, never one for each message. A
 * program can carry the memory out of one (`buffer.transfer()`); then there is another.
 */
export class Buffers {
  readonly #native: NativeBus;
  /** By the number that the addon gives a sender's memory. */
  readonly #buffers: (ArrayBuffer | undefined)[] = [];
  #own: ArrayBuffer | undefined;

  constructor(native: NativeBus) {
    this.#native = native;
  }

  /** A view of bytes in memory `number`. */
  view(number: number, offset: number, length: number): Uint8Array {
    let buffer = this.#buffers[number];
    if (buffer === undefined || buffer.byteLength === 0) buffer = this.#open(number);
    return new Uint8Array(buffer, offset, length);
  }

  #open(number: number): ArrayBuffer {
    const buffer = this.#native.viewBuffer(number) as ArrayBuffer | null;
    if (buffer === null)
      throw new ShmBusError("ERR_SHM_BUS_INTERNAL", `memory ${number} was forgotten too early`);
    this.#buffers[number] = buffer;
    return buffer;
  }

  /** This attachment's own memory. */
  get own(): ArrayBuffer {
    if (this.#own === undefined || this.#own.byteLength === 0)
      this.#own = this.#native.ownBuffer() as ArrayBuffer;
    return this.#own;
  }

  /** Lets go of the memories whose owners have departed: views that were kept past their lease have length 0 now. */
  forgetRetired(): void {
    for (const number of this.#native.takeRetired()) {
      const buffer = this.#buffers[number];
      if (buffer !== undefined) this.#native.detachBuffer(buffer);
      this.#buffers[number] = undefined;
    }
  }

  /** Detaches them all: every view has length 0 from here on. */
  detach(): void {
    for (const buffer of [...this.#buffers, this.#own]) {
      if (buffer !== undefined) this.#native.detachBuffer(buffer);
    }
    this.#buffers.length = 0;
    this.#own = undefined;
  }
}
