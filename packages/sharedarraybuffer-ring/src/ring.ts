import { unicast } from "./address.ts";
import { RingError } from "./errors.ts";
import type { Sender } from "./frame.ts";
import { Geometry } from "./geometry.ts";
import { layout, sequencerBytes } from "./layout.ts";
import { Memory } from "./memory.ts";
import { RingReader, type RingReaderOptions } from "./ring-reader.ts";
import { RingWriter } from "./ring-writer.ts";
import { Sequencer } from "./sequencer.ts";
import { threads, type Waiting } from "./waiting.ts";

/** How large a ring is. */
export interface RingSizes {
  /** How many attachments it has, each with its own memory: 1 to 1024. */
  readonly attachments: number;
  /** Slots of the order: messages that the slowest reader may be behind. 2^6 to 2^24, 2^12 by default. */
  readonly slots?: number | undefined;
  /** Messages that one attachment may have in the order at once. 2^6 to 2^15, 2^10 by default. */
  readonly headers?: number | undefined;
  /** Bytes of payload of one attachment, from 65 bytes a message on. 2^16 to 2^33, 2^20 by default. */
  readonly ringBytes?: number | undefined;
}

export interface RingOptions {
  /** How to wait and to wake. `Atomics` by default: between the threads of one process. */
  readonly waiting?: Waiting | undefined;
}

/** Generation of every attachment of a ring: its ids are given once. */
export const generation = 1;

function sized(sizes: RingSizes): { slots: number; geometry: Geometry } {
  const { attachments, slots = 2 ** 12, headers = 2 ** 10, ringBytes = 2 ** 20 } = sizes;
  if (!Number.isInteger(attachments) || attachments < 1 || attachments > layout.maxAttachments) {
    throw new RingError(
      "ERR_RING_GEOMETRY",
      `attachments must be an integer from 1 to ${layout.maxAttachments}, not ${attachments}`,
    );
  }
  Sequencer.checkSlots(slots);
  return { slots, geometry: new Geometry(headers, ringBytes) };
}

/**
 * One order, shared by a fixed number of attachments: a sequencer memory and a payload memory for each.
 *
 * Make it once with {@link Ring.create}, hand {@link Ring.buffer} to the others, and open it there with {@link Ring.open}.
 */
export class Ring {
  readonly sequencer: Sequencer;
  readonly waiting: Waiting;
  /** The buffer that holds all of it, where one does. */
  readonly buffer: ArrayBufferLike;
  readonly #payloads: readonly Sender[];

  private constructor(
    buffer: ArrayBufferLike,
    sequencer: Sequencer,
    payloads: readonly Sender[],
    options: RingOptions,
  ) {
    this.buffer = buffer;
    this.sequencer = sequencer;
    this.waiting = options.waiting ?? threads;
    this.#payloads = payloads;
  }

  /** Bytes that a ring of these sizes takes. */
  static bytes(sizes: RingSizes): number {
    const { slots, geometry } = sized(sizes);
    return sequencerBytes(slots) + sizes.attachments * geometry.memoryBytes;
  }

  /**
   * Makes a ring, in a new SharedArrayBuffer or in `buffer`: zeros, {@link Ring.bytes} of them or more. Attachment `id`
   * has the address {@link unicast}(id).
   *
   * @throws RingError `ERR_RING_GEOMETRY` if a size is not what it can be.
   */
  static create(sizes: RingSizes & RingOptions & { readonly buffer?: ArrayBufferLike }): Ring {
    const { slots, geometry } = sized(sizes);
    const buffer = sizes.buffer ?? new SharedArrayBuffer(Ring.bytes(sizes));
    if (buffer.byteLength < Ring.bytes(sizes)) {
      throw new RingError(
        "ERR_RING_GEOMETRY",
        `a buffer of ${buffer.byteLength} bytes where ${Ring.bytes(sizes)} are needed`,
      );
    }
    const [busId] = crypto.getRandomValues(new BigUint64Array(2));
    const start = sequencerBytes(slots);
    for (let id = 0; id < sizes.attachments; id++) {
      geometry.store(new Memory(buffer, start + id * geometry.memoryBytes, geometry.memoryBytes));
    }
    const { members } = Sequencer.create(new Memory(buffer, 0, start), slots, busId!);
    for (let id = 0; id < sizes.attachments; id++) {
      members.setAddress(id, unicast(id));
      members.change(id, () => ({ generation, attach: "live" }));
      members.cover(id);
    }
    return Ring.open(buffer, sizes);
  }

  /**
   * Opens a ring that somebody made in `buffer`.
   *
   * @throws RingError `ERR_RING_FORMAT`, `ERR_RING_GEOMETRY` if it holds none, or one of another layout version.
   */
  static open(buffer: ArrayBufferLike, options: RingOptions = {}): Ring {
    if (buffer.byteLength < layout.sequencer.slots) {
      throw new RingError("ERR_RING_GEOMETRY", `a buffer of ${buffer.byteLength} bytes holds no ring`);
    }
    const page = new Memory(buffer, 0, layout.sequencer.slots);
    const start = sequencerBytes(Sequencer.slotsOf(page));
    const sequencer = Sequencer.open(new Memory(buffer, 0, Math.min(start, buffer.byteLength)));
    const payloads: Memory[] = [];
    for (let at = start; payloads.length < sequencer.members.high;) {
      const head = new Memory(buffer, at, Math.min(layout.page, buffer.byteLength - at));
      if (head.byteLength < layout.page) {
        throw new RingError("ERR_RING_GEOMETRY", `the memory of attachment ${payloads.length} is missing`);
      }
      const { memoryBytes } = new Geometry(
        Number(head.load(layout.payload.headerCount)),
        Number(head.load(layout.payload.ringBytes)),
      );
      payloads.push(new Memory(buffer, at, Math.min(memoryBytes, buffer.byteLength - at)));
      at += memoryBytes;
    }
    return Ring.of(sequencer, payloads, options);
  }

  /** A ring of parts that stand in several buffers: the payload memory of attachment `id` is `payloads[id]`. */
  static of(sequencer: Sequencer, payloads: readonly Memory[], options: RingOptions = {}): Ring {
    const senders = payloads.map((memory) => ({
      memory,
      geometry: Geometry.load(memory, memory.byteLength),
    }));
    return new Ring(sequencer.memory.bytes.buffer, sequencer, senders, options);
  }

  /** How many attachments it has. */
  get attachments(): number {
    return this.#payloads.length;
  }

  /** The stamp that the next message will get. */
  get tail(): number {
    return this.sequencer.find().stamp;
  }

  /** The memory of an attachment, if there is such a one. */
  sender(id: number): Sender | undefined {
    return this.#payloads[id];
  }

  /** The writer of an attachment: one for its life, in one thread. */
  writer(id: number): RingWriter {
    return new RingWriter(this, id);
  }

  /** The reader of an attachment. It joins: it sees every message that concerns it from here on. */
  reader(id: number, options: RingReaderOptions = {}): RingReader {
    return new RingReader(this, id, options);
  }

  /** Takes a reader's place, if it has one: publishers no longer wait for it. It finds out at its next release. */
  evict(id: number): boolean {
    const before = this.sequencer.members.change(id, (member) =>
      member.reader === "live" || member.reader === "joining"
        ? { reader: "evicted", evictions: Math.min(member.evictions + 1, 255) }
        : undefined,
    );
    this.wakeWriters();
    return before.reader === "live" || before.reader === "joining";
  }

  /** Ends an attachment whose thread is gone: it publishes and holds nothing any more. What it published stays readable. */
  detach(id: number): void {
    this.sequencer.members.change(id, () => ({ attach: "departed", reader: "none" }));
    this.sequencer.sleepers.forget(id);
    this.wakeReaders(this.tail);
    this.wakeWriters();
  }

  /** Raises the hint to `tail`, then wakes who sleeps for messages. */
  wakeReaders(tail: number): void {
    this.sequencer.raiseHint(tail);
    this.waiting.notify(this.sequencer.memory.i32, layout.sequencer.hint / 4);
  }

  /** Wakes who waits for space. */
  wakeWriters(): void {
    if (!this.sequencer.spaceWanted) return;
    this.sequencer.releaseSpace();
    this.waiting.notify(this.sequencer.memory.i32, layout.sequencer.space / 4);
  }
}
