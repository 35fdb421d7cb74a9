import type { NativeBus } from "@shm-bus/native";

import { ShmBusError } from "./errors.ts";

/**
 * The ArrayBuffers over the other attachments' memories, by the number that the addon gives them: one for each memory,
 * made once, never one for each message.
 */
export class Buffers {
  readonly #native: NativeBus;
  readonly #buffers: (ArrayBuffer | undefined)[] = [];

  constructor(native: NativeBus) {
    this.#native = native;
  }

  /** A view of bytes in memory `number`. */
  view(number: number, offset: number, length: number): Uint8Array {
    const buffer = this.#buffers[number] ?? this.#open(number);
    return new Uint8Array(buffer, offset, length);
  }

  #open(number: number): ArrayBuffer {
    const buffer = this.#native.viewBuffer(number) as ArrayBuffer | null;
    if (buffer === null)
      throw new ShmBusError("ERR_SHM_BUS_INTERNAL", `memory ${number} was forgotten too early`);
    this.#buffers[number] = buffer;
    return buffer;
  }

  /** Lets go of the memories whose owners have departed; views that are still held keep theirs. */
  forgetRetired(): void {
    for (const number of this.#native.takeRetired()) this.#buffers[number] = undefined;
  }

  /** Detaches them all: every view has length 0 from here on. */
  detach(): void {
    for (const buffer of this.#buffers) {
      if (buffer !== undefined) this.#native.detachBuffer(buffer);
    }
    this.#buffers.length = 0;
  }
}
