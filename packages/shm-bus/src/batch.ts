import type { NativeBus } from "@shm-bus/native";
import { layout } from "sharedarraybuffer-ring";

import type { Buffers } from "./buffers.ts";
import { fromNative, translated } from "./errors.ts";

/** Words of the table that the addon shares: two, then four for each message. See crates/shm-bus-node/src/batch.rs. */
const [FIRST, ROOM, HEAD, COLUMNS] = [0, 1, 2, 4] as const;

const { headers: headersOffset, entryBytes, inlineBytes } = layout.payload;
const headerBytes = layout.header.bytes;

/**
 * The batch that is being made. Small messages to one destination are written straight into the headers that they will
 * have, and handed over to the addon together: a call for each of them would cost more than the message.
 */
export class Batch {
  readonly #native: NativeBus;
  readonly #begin: () => number;
  readonly #take: (count: number) => number;
  readonly #end: (count: number) => number;
  readonly #table: Uint32Array;
  readonly #buffers: Buffers;
  #own: Uint8Array;
  readonly #mask: number;
  #count = 0;
  #room = 0;
  #first = 0;
  /** Why messages were lost that had been taken: then none of the others is published either. */
  #failure: unknown;

  constructor(native: NativeBus, buffers: Buffers) {
    this.#native = native;
    this.#buffers = buffers;
    this.#begin = native.beginBatchFunction() as () => number;
    this.#take = native.takeBatchFunction() as (count: number) => number;
    this.#end = native.endBatchFunction() as (count: number) => number;
    this.#table = new Uint32Array(native.batchTable() as ArrayBuffer);
    this.#own = new Uint8Array(buffers.own);
    this.#mask = Number(new BigUint64Array(buffers.own, layout.payload.headerCount, 1)[0]) - 1;
  }

  begin(): void {
    this.#failure = undefined;
    translated(() => this.#begin());
    this.#renew();
  }

  /** Takes a message, if it can; whatever cannot be taken is published behind {@link Batch.flush}. */
  add(destination: number, data: Uint8Array, topicLow: number, topicHigh: number): boolean {
    const count = this.#count;
    const length = data.byteLength;
    if (length > inlineBytes || count >= this.#room || this.#own.byteLength === 0) return false;
    const index = (this.#first + count) & this.#mask;
    this.#own.set(data, headersOffset + index * entryBytes + headerBytes);
    const row = HEAD + count * COLUMNS;
    this.#table[row] = destination;
    this.#table[row + 1] = length;
    this.#table[row + 2] = topicLow;
    this.#table[row + 3] = topicHigh;
    this.#count = count + 1;
    return true;
  }

  /** Hands over what was taken, before something else is published in the same batch; {@link Batch.resume} follows. */
  flush(): void {
    const count = this.#count;
    this.#count = 0;
    this.#room = 0;
    if (count === 0) return;
    try {
      this.#take(count);
    } catch (error) {
      this.#failure = fromNative(error);
      throw this.#failure;
    }
  }

  /** Goes on taking messages. */
  resume(): void {
    translated(() => this.#take(0));
    this.#renew();
  }

  /** Publishes the batch: its stamp, -1 if there is no room now, 0 if it is empty. */
  end(): number {
    const count = this.#count;
    this.#count = 0;
    try {
      if (this.#failure !== undefined) throw this.#failure;
      return this.#end(count);
    } catch (error) {
      this.abandon();
      throw error;
    }
  }

  abandon(): void {
    this.#count = 0;
    this.#native.abandonBatch();
  }

  #renew(): void {
    // A program can carry the memory out of the buffer.
    if (this.#own.byteLength === 0) this.#own = new Uint8Array(this.#buffers.own);
    this.#count = 0;
    this.#first = this.#table[FIRST] as number;
    this.#room = this.#table[ROOM] as number;
  }
}
