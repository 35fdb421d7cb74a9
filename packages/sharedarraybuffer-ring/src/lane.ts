// A lane: one publishing thread's part of its attachment's payload memory, from loan to reclaim.
//
// The data lane has the payload ring and all headers but the last 64; the control lane those 64, with a fixed cell each.
// Every loan takes one header: loan n uses entry n mod headers. Reclaim happens in loan order, when every counting reader
// that may read a frame has passed it: store `reclaimed`, fence, zero the header's stamp, and only then overwrite.
import { bucketOfAll, controlBucket, mixedBucket } from "./bucket.ts";
import { RingError } from "./errors.ts";
import { Gate, type Holder, type Peers } from "./gate.ts";
import { type Geometry, type LaneKind, reclaimedOffset } from "./geometry.ts";
import { bucketInShape, type HeaderKind, headerKinds, kindIn, shapeHigh, writeHeader } from "./header.ts";
import { layout, nextMultiple } from "./layout.ts";
import { fence, highHalf, lowHalf, type Memory, word } from "./memory.ts";
import type { Sequencer } from "./sequencer.ts";
import { slotHigh, slotLow } from "./slot-word.ts";

const at = layout.header;
const { alignment, inlineBytes, cellBytes, headers, entryBytes } = layout.payload;
const [loaned, padding] = [headerKinds.indexOf("loaned"), headerKinds.indexOf("padding")];

/** Who publishes. */
export interface Owner {
  readonly id: number;
  readonly generation: number;
}

/** Space for one frame. */
export interface Space {
  readonly status: "loaned";
  readonly serial: number;
  /** Offset of its bytes in the owner's memory. */
  readonly offset: number;
  /** Bytes it may hold. */
  readonly capacity: number;
  /** Where its bytes start in the ring, and how many it holds there. */
  readonly position: number;
  readonly span: number;
}

/** What a publisher says of a frame. */
export interface Outgoing {
  readonly space: Space;
  readonly kind: HeaderKind;
  /** At least one address; they stand in front of the payload of a transaction already. */
  readonly destinations: readonly bigint[];
  readonly topic: bigint;
  /** How many file descriptors travel with it. */
  readonly descriptors: number;
  /** Monotonic nanoseconds. */
  readonly time: bigint;
  /** Bytes of the space that are the payload, with the destinations of a transaction. */
  readonly length: number;
}

/** No room now. Nothing happened. */
export interface WouldBlock {
  readonly status: "would-block";
  /** Slots: a reader is a lap behind. Headers, bytes: of the publisher's own memory. */
  readonly shortage: "slots" | "headers" | "bytes";
  /** The first free slot when it was found. */
  readonly stamp: number;
  /** The reader that holds it; none if the publisher's own loans do. */
  readonly holder: Holder | undefined;
}

/** A publish that happened. */
export interface Published {
  readonly status: "published";
  /** Its place in the order. */
  readonly stamp: number;
  /** Whom to wake now: those who watch this bucket. The hint is raised past the stamp first. */
  readonly wake: number | undefined;
}

export class Lane {
  readonly own: Memory;
  readonly geometry: Geometry;
  readonly kind: LaneKind;
  readonly gate: Gate = new Gate();
  readonly #base: number;
  readonly #count: number;
  readonly #reclaimedOffset: number;
  /** Whether the ring stands twice in the memory, so that a payload may run over its end. */
  readonly #mirrored: boolean;
  /** Serial of the next loan; every loan below `#freed` is freed. */
  #next = 0;
  #freed = 0;
  /** Ring positions without wrapping: where the next payload goes, and up to where the ring is in use. */
  #head = 0;
  #tail = 0;
  /** Where the order's tail is likely to be. */
  #guess = 1;

  /** The lane `kind` of fresh payload memory. */
  constructor(own: Memory, geometry: Geometry, kind: LaneKind) {
    this.own = own;
    this.geometry = geometry;
    this.kind = kind;
    this.#base = geometry.laneBase(kind);
    this.#count = geometry.laneCount(kind);
    this.#reclaimedOffset = reclaimedOffset(kind);
    this.#mirrored = own.byteLength === geometry.mappedBytes;
  }

  /** The largest payload of a frame. */
  get maxFrame(): number {
    return this.kind === "data" ? this.geometry.maxFrame : cellBytes;
  }

  /** Loans that are not freed yet. */
  get held(): number {
    return this.#next - this.#freed;
  }

  /** Bytes of the payload ring that are not free. */
  get heldBytes(): number {
    return this.#head - this.#tail;
  }

  #index(serial: number): number {
    return this.#base + (serial % this.#count);
  }

  #entry(serial: number): number {
    return headers + this.#index(serial) * entryBytes;
  }

  /** The 32-bit word `offset` bytes into the entry of a loan. */
  #half(serial: number, offset: number): number {
    return this.own.u32[(this.#entry(serial) + offset) / 4]!;
  }

  /** Bytes of the ring that a loan holds. */
  #span(serial: number): number {
    return this.#half(serial, at.batch + 4) * alignment;
  }

  /**
   * Reserves `length` bytes.
   *
   * @throws RingError `ERR_RING_TOO_BIG`.
   */
  loan(sequencer: Sequencer, peers: Peers, length: number): Space | WouldBlock {
    if (length > this.maxFrame) {
      throw new RingError(
        "ERR_RING_TOO_BIG",
        `${length} bytes do not fit a frame of at most ${this.maxFrame}`,
      );
    }
    const inRing = this.kind === "data" && length > inlineBytes;
    const lead = inRing ? this.#leadFor(length) : 0;
    const span = inRing ? lead + nextMultiple(length, alignment) : 0;
    if (this.#lacks(span) !== undefined) {
      this.#reclaim();
      if (this.#lacks(span) !== undefined) {
        const { stamp } = sequencer.find();
        this.gate.scan(sequencer, stamp, peers);
        this.#reclaim();
        const shortage = this.#lacks(span);
        if (shortage !== undefined) {
          return { status: "would-block", shortage, stamp, holder: this.#holderOfOldest() };
        }
      }
    }
    const serial = this.#next;
    const entry = this.#entry(serial);
    const position = this.#head + lead;
    // I-RECLAIM: `reclaimed` was stored and fenced before this header is touched.
    this.own.store(entry + at.stamp, 0n);
    fence();
    const words = entry / 4;
    this.own.u32[words + at.shape / 4 + 1] = shapeHigh(0, 0, loaned, 0);
    this.own.u32[words + at.batch / 4 + 1] = span / alignment;
    this.#next += 1;
    this.#head += span;
    const offset =
      this.kind === "control"
        ? this.geometry.cell(serial)
        : inRing
          ? this.geometry.headBytes + (position % this.geometry.ringBytes)
          : entry + at.bytes;
    return { status: "loaned", serial, offset, capacity: length, position, span };
  }

  /** Bytes up to the end of the ring that a payload must leave out, where the ring stands once only. */
  #leadFor(length: number): number {
    const left = this.geometry.ringBytes - (this.#head % this.geometry.ringBytes);
    return this.#mirrored || length <= left ? 0 : left;
  }

  #lacks(span: number): "headers" | "bytes" | undefined {
    if (this.#next - this.#freed >= this.#count) return "headers";
    return this.#head + span - this.#tail > this.geometry.ringBytes ? "bytes" : undefined;
  }

  /** Frees loans in loan order as far as the gate of the last scan allows. */
  #reclaim(): void {
    const before = this.#freed;
    while (this.#freed < this.#next) {
      const shape = this.#half(this.#freed, at.shape + 4);
      let count = 1;
      if (kindIn(shape) === loaned) break;
      if (kindIn(shape) !== padding) {
        const stamp = this.own.loadStamp(this.#entry(this.#freed));
        if (stamp === 0 || !this.gate.hasPassed(stamp, bucketInShape(shape))) break;
        count = Math.max(this.#half(this.#freed, at.batch) & 0xffff, 1);
      }
      for (let serial = this.#freed; serial < this.#freed + count; serial++) this.#tail += this.#span(serial);
      this.#freed += count;
    }
    if (this.#freed !== before) {
      this.own.store(this.#reclaimedOffset, this.#freed);
      // SYNC reclaim: the watermark before any overwriting store.
      fence();
    }
  }

  #holderOfOldest(): Holder | undefined {
    const stamp = this.own.loadStamp(this.#entry(this.#freed));
    const bucket = bucketInShape(this.#half(this.#freed, at.shape + 4));
    return stamp === 0 ? undefined : this.gate.holder(stamp, bucket);
  }

  /** Gives a loan up. */
  abandon(space: Space): void {
    if (space.serial + 1 === this.#next) {
      this.#next -= 1;
      this.#head -= space.span;
    } else {
      this.own.store(this.#entry(space.serial) + at.shape, BigInt(padding) << 48n);
    }
  }

  #complete(frame: Outgoing, index: number, count: number, bucket: number): void {
    const { space, kind } = frame;
    if (frame.length > space.capacity) {
      throw new RingError("ERR_RING_STATE", `${frame.length} bytes in a loan of ${space.capacity}`);
    }
    const flags = this.kind === "data" && space.span === 0 ? at.inline : 0;
    const destination =
      kind === "transaction" ? BigInt(frame.destinations.length) : (frame.destinations[0] ?? 0n);
    writeHeader(this.own, this.#entry(space.serial), [
      space.serial % 2 ** 32,
      Math.floor(space.serial / 2 ** 32),
      space.position % 2 ** 32,
      Math.floor(space.position / 2 ** 32),
      frame.length,
      shapeHigh(frame.descriptors, bucket, headerKinds.indexOf(kind), flags),
      lowHalf(destination),
      highHalf(destination),
      lowHalf(frame.time),
      highHalf(frame.time),
      lowHalf(frame.topic),
      highHalf(frame.topic),
      ((index << 16) | count) >>> 0,
      space.span / alignment,
    ]);
  }

  /**
   * Publishes loans as one event: a single one is a message, several are a batch (adjacent in the order, one stamp). They
   * must be consecutive and in loan order. Unless it is published the loans are as before, and nobody sees anything.
   *
   * @throws RingError `ERR_RING_DETACHED`, `ERR_RING_SPOILED`.
   */
  publish(
    sequencer: Sequencer,
    peers: Peers,
    owner: Owner,
    frames: readonly Outgoing[],
  ): Published | WouldBlock {
    const first = frames[0]?.space.serial;
    if (first === undefined || frames.some((frame, i) => frame.space.serial !== first + i)) {
      throw new RingError("ERR_RING_STATE", "the loans of a batch are consecutive, at least one");
    }
    const bucket = this.#bucketOf(frames);
    let result: Published | WouldBlock | undefined;
    try {
      frames.forEach((frame, i) => this.#complete(frame, i, i === 0 ? frames.length : 0, bucket));
      result = this.#commit(sequencer, peers, owner, first, bucket);
    } finally {
      if (result?.status !== "published") {
        for (const { space } of frames) {
          this.own.store(this.#entry(space.serial) + at.stamp, 0n);
          this.own.store(this.#entry(space.serial) + at.shape, BigInt(loaned) << 48n);
        }
      }
    }
    if (result.status === "published" && this.kind === "data") {
      this.own.count(layout.payload.published, frames.length);
      let bytes = 0;
      for (const frame of frames) bytes += frame.length;
      this.own.count(layout.payload.publishedBytes, bytes);
    }
    return result;
  }

  #bucketOf(frames: readonly Outgoing[]): number {
    if (this.kind === "control") return controlBucket;
    const bucket = bucketOfAll(frames[0]!.destinations);
    for (let i = 1; i < frames.length; i++) {
      if (bucketOfAll(frames[i]!.destinations) !== bucket) return mixedBucket;
    }
    return bucket;
  }

  /** Gives the frame whose first header is loan `first` its place in the order. */
  #commit(
    sequencer: Sequencer,
    peers: Peers,
    owner: Owner,
    first: number,
    bucket: number,
  ): Published | WouldBlock {
    const stampOffset = this.#entry(first) + at.stamp;
    const slots = sequencer.slotCount;
    let found = sequencer.find(
      sequencer.isFilled(this.#guess) ? Math.max(sequencer.hint, this.#guess) : this.#guess,
    );
    for (;;) {
      const { stamp } = found;
      if (stamp - this.gate.cached >= slots) {
        this.gate.scan(sequencer, stamp, peers);
        if (stamp - this.gate.cached >= slots) {
          return { status: "would-block", shortage: "slots", stamp, holder: this.gate.slowest() };
        }
      }
      // I-FENCE: after the slot was found and before each swap.
      if (!sequencer.members.isLive(owner.id, owner.generation)) {
        throw new RingError("ERR_RING_DETACHED", `attachment ${owner.id} is no longer a member`);
      }
      this.own.store(stampOffset, stamp);
      const next = word(slotHigh(stamp, slots, owner.id), slotLow(owner.id, this.#index(first), bucket));
      if (sequencer.fill(found, next)) return this.#after(sequencer, stamp, bucket);
      found = sequencer.find(stamp);
    }
  }

  /** Once the message is in the order: raise the hint now and then, and see who sleeps. */
  #after(sequencer: Sequencer, stamp: number, bucket: number): Published {
    this.#guess = stamp + 1;
    if (stamp % 8 === 7) sequencer.raiseHint(stamp + 1);
    // Four times a lap everyone is woken, so that those asleep for a rare group do not hold the gate.
    const whom = stamp % (sequencer.slotCount / 4) === 0 ? mixedBucket : bucket;
    return { status: "published", stamp, wake: sequencer.sleepers.any(whom) ? whom : undefined };
  }

  /** Counts a publish that found no room. */
  countWouldBlock(): void {
    this.own.count(layout.payload.wouldBlock, 1);
  }
}
