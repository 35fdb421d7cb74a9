// Reading the order: one function that checks a slot and the frame it names, in one fixed sequence, each shared word read
// once.
import { BucketSet, controlBucket, mixedBucket } from "./bucket.ts";
import { Frame, type Sender } from "./frame.ts";
import { flagsIn, headerKinds, kindIn, readHeader } from "./header.ts";
import { layout } from "./layout.ts";
import type { Sequencer } from "./sequencer.ts";
import { bucketIn, indexOf, senderOf } from "./slot-word.ts";

const { cellBytes, inlineBytes, headers, entryBytes } = layout.payload;
const [message, transaction, control] = (["message", "transaction", "control"] as const).map((kind) =>
  headerKinds.indexOf(kind),
);

/** Who is attached as of a reader's position: the memory of `id`. */
export type Senders = (id: number) => Sender | undefined;

/**
 * A slot that no sender can have filled by the rules, skipped.
 *
 * - `unknown-sender`: the id is not attached
 * - `index`: there is no header with that index
 * - `stamp`: the header does not carry the stamp of the slot, so `sender` is the victim and not the culprit
 * - `header`: the header says something impossible
 */
export interface Violation {
  readonly step: "violation";
  readonly reason: "unknown-sender" | "index" | "stamp" | "header";
  readonly stamp: number;
  readonly sender: number;
}

/** What a reader found at its position. */
export type Step =
  | Frame
  | Violation
  /** Nothing yet. */
  | { readonly step: "empty" }
  /** The order has moved on by at least a lap: the reader has lost its place. */
  | { readonly step: "overrun" };

const empty: Step = Object.freeze({ step: "empty" });
const overrun: Step = Object.freeze({ step: "overrun" });

/** A position in the order. */
export class Reader {
  readonly #sequencer: Sequencer;
  readonly #senders: Senders;
  readonly #buckets: BucketSet;
  #position: number;
  /** The batch being read: the halves of its slot word, the next index (0 for none) and the count. */
  #high = 0;
  #low = 0;
  #index = 0;
  #count = 0;

  /** A reader that starts at `position` and looks at frames of `buckets`. */
  constructor(sequencer: Sequencer, senders: Senders, position: number, buckets: Iterable<number> = []) {
    this.#sequencer = sequencer;
    this.#senders = senders;
    this.#position = position;
    this.#buckets = new BucketSet([...buckets, controlBucket, mixedBucket]);
  }

  /** The oldest stamp not yet read to its end. */
  get position(): number {
    return this.#position;
  }

  /** Whether the next message is another one of a batch already begun. */
  get inBatch(): boolean {
    return this.#index !== 0;
  }

  get buckets(): BucketSet {
    return this.#buckets;
  }

  /** Looks at more buckets from here on. */
  watch(bucket: number): void {
    this.#buckets.add(bucket);
  }

  /** Continues at another stamp: after a gap. */
  resume(stamp: number): void {
    this.#position = stamp;
    this.#index = 0;
  }

  /** Whether something may be waiting at the position: the last look before sleep. */
  get ready(): boolean {
    return this.inBatch || this.#sequencer.isFilled(this.#position);
  }

  /** Moves over frames that cannot concern this reader, at most `limit`, without touching their senders' memory. */
  skip(limit: number): number {
    if (this.inBatch) return 0;
    const start = this.#position;
    while (this.#position - start < limit) {
      if (this.#sequencer.read(this.#position) !== 0) break;
      if (this.#buckets.has(bucketIn(this.#sequencer.low))) break;
      this.#position += 1;
    }
    return this.#position - start;
  }

  /** The next frame that may concern this reader. Moves over those that cannot, however many. */
  next(): Step {
    if (!this.inBatch) {
      for (;;) {
        const laps = this.#sequencer.read(this.#position);
        if (laps < 0) return empty;
        if (laps > 0) return overrun;
        if (this.#buckets.has(bucketIn(this.#sequencer.low))) break;
        this.#position += 1;
      }
      this.#high = this.#sequencer.high;
      this.#low = this.#sequencer.low;
    }
    const stamp = this.#position;
    const found = this.#check(stamp);
    if (typeof found === "object") {
      const count = this.inBatch ? this.#count : found.batchCount;
      if (this.#index + 1 < count) {
        this.#index += 1;
        this.#count = count;
      } else {
        this.resume(stamp + 1);
      }
      return found;
    }
    // The slot was refilled while its frame was read: not a forgery, the place is lost.
    this.#sequencer.read(stamp);
    if (this.#sequencer.high !== this.#high || this.#sequencer.low !== this.#low) return overrun;
    this.resume(stamp + 1);
    return { step: "violation", reason: found, stamp, sender: senderOf(this.#high, this.#low) };
  }

  /**
   * The one place where a foreign frame is judged. In this order: the sender is attached, the header exists, its stamp
   * (before and after the copy) is the slot's, its shape is possible, its payload lies inside its sender's ring.
   */
  #check(stamp: number): Frame | Violation["reason"] {
    const id = senderOf(this.#high, this.#low);
    const slotIndex = indexOf(this.#low);
    const batchIndex = this.#index;
    const from = this.#senders(id);
    if (from === undefined) return "unknown-sender";
    const { memory, geometry } = from;
    const first = geometry.entry(slotIndex);
    if (first === undefined) return "index";
    const lane = geometry.laneOf(slotIndex);
    const [base, count] = [geometry.laneBase(lane), geometry.laneCount(lane)];
    // Headers of a batch follow one another and wrap inside their lane.
    const nth = base + ((slotIndex - base + batchIndex) % count);
    const entry = headers + nth * entryBytes;
    if (memory.loadStamp(first) !== stamp) return "stamp";
    // Loads through Atomics keep their order: no fence is needed before the second look.
    const raw = readHeader(memory, entry);
    if (memory.loadStamp(first) !== stamp) return "stamp";
    const [length, kind, inline] = [raw[4], kindIn(raw[5]), (flagsIn(raw[5]) & layout.header.inline) !== 0];
    const [batchCount, ownIndex] = [raw[12] & 0xffff, raw[12] >>> 16];
    const possible =
      lane === "control"
        ? kind === control && length <= cellBytes
        : kind === message ||
          (kind === transaction && raw[7] === 0 && raw[6] >= 1 && raw[6] <= Math.floor(length / 8));
    const fits = length <= (inline ? inlineBytes : geometry.maxFrame);
    const place = ownIndex === batchIndex && (batchIndex > 0 || batchCount <= count);
    if (!possible || !fits || !place) return "header";
    const offset =
      lane === "control"
        ? geometry.cell(nth - base)
        : inline
          ? entry + layout.header.bytes
          : geometry.ringOffset(raw[3], raw[2]);
    return new Frame(stamp, batchIndex, id, lane, offset, raw, from);
  }
}
