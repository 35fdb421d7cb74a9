import type { Peers } from "./gate.ts";
import { RingError } from "./errors.ts";
import { Lane, type Outgoing, type Owner, type Published, type Space, type WouldBlock } from "./lane.ts";
import { layout, nextMultiple } from "./layout.ts";
import { highHalf, lowHalf } from "./memory.ts";
import { generation, type Ring } from "./ring.ts";

/** One address, or several: then the message is a transaction, with one stamp for all of them. */
export type Destination = bigint | readonly bigint[];

export interface PublishOptions {
  /** A 64-bit word of the sender's own. */
  readonly topic?: bigint | undefined;
  /** Nanoseconds; by default the monotonic clock's. */
  readonly time?: bigint | undefined;
}

export interface Message extends PublishOptions {
  readonly to: Destination;
  readonly data: Uint8Array;
}

/** Space in the writer's own memory, to be filled in place. Publish it or abandon it: it holds up what is behind it. */
export interface RingLoan extends Disposable {
  readonly status: "loaned";
  readonly bytes: Uint8Array;
  /** Publishes the first `length` bytes, all by default. Where it would block the loan is as before. */
  publish(options?: PublishOptions & { readonly length?: number | undefined }): Published | WouldBlock;
  /** Gives it up, unless it was published. */
  abandon(): void;
}

/** Publishes as one attachment. */
export class RingWriter {
  readonly id: number;
  readonly #ring: Ring;
  readonly #lane: Lane;
  readonly #owner: Owner;
  readonly #peers: Peers;
  /** Bytes of each frame that last found no room. */
  #wanted: readonly number[] = [];

  /** @throws RingError `ERR_RING_STATE` if there is no such attachment, or it has published already. */
  constructor(ring: Ring, id: number) {
    const own = ring.sender(id);
    if (own === undefined) throw new RingError("ERR_RING_STATE", `there is no attachment ${id}`);
    if (own.memory.loadRising(layout.payload.published) !== 0) {
      throw new RingError("ERR_RING_STATE", `attachment ${id} has had a writer: it has one for its life`);
    }
    this.id = id;
    this.#ring = ring;
    this.#lane = new Lane(own.memory, own.geometry, "data");
    this.#owner = { id, generation };
    this.#peers = (peer) => ring.sender(peer)?.memory;
  }

  /** The largest message, with 8 bytes for each destination of a transaction. */
  get maxBytes(): number {
    return this.#lane.maxFrame;
  }

  /**
   * Publishes a message: copies it into the writer's own memory and gives it its place in the order. Gives its stamp, or
   * what there was not enough of; then nothing happened.
   *
   * @throws RingError `ERR_RING_TOO_BIG`, `ERR_RING_DETACHED`, `ERR_RING_SPOILED`.
   */
  publish(to: Destination, data: Uint8Array, options: PublishOptions = {}): Published | WouldBlock {
    return this.batch([{ to, data, ...options }]);
  }

  /** Publishes messages as one event: adjacent in the order, with one stamp, all or none. */
  batch(messages: readonly Message[]): Published | WouldBlock {
    const lengths = messages.map(({ to, data }) => prefixOf(to) + data.length);
    this.#checkFits(lengths);
    const frames: Outgoing[] = [];
    let result: Published | WouldBlock | undefined;
    try {
      for (const message of messages) {
        const prefix = prefixOf(message.to);
        const length = prefix + message.data.length;
        const space = this.#lane.loan(this.#ring.sequencer, this.#peers, length);
        if (space.status === "would-block") return (result = this.#full(space, lengths));
        this.#address(space, message.to);
        this.#lane.own.bytes.set(message.data, space.offset + prefix);
        frames.push(outgoing(space, message.to, length, message));
      }
      return (result = this.#publish(frames, lengths));
    } finally {
      if (result?.status !== "published") {
        // Backwards: then each is the last one, and is taken back instead of becoming padding.
        for (const { space } of frames.toReversed()) this.#lane.abandon(space);
      }
    }
  }

  /**
   * Reserves space for a message of at most `length` bytes, to be written in place.
   *
   * @throws RingError `ERR_RING_TOO_BIG`, `ERR_RING_SPOILED`.
   */
  loan(to: Destination, length: number): RingLoan | WouldBlock {
    const prefix = prefixOf(to);
    const space = this.#lane.loan(this.#ring.sequencer, this.#peers, prefix + length);
    if (space.status === "would-block") return this.#full(space, [prefix + length]);
    this.#address(space, to);
    const start = space.offset + prefix;
    let open = true;
    const check = (): void => {
      if (!open) throw new RingError("ERR_RING_STATE", "the loan was published or abandoned already");
    };
    const abandon = (): void => {
      if (open) this.#lane.abandon(space);
      open = false;
    };
    return {
      status: "loaned",
      bytes: this.#lane.own.bytes.subarray(start, start + length),
      publish: (options = {}) => {
        check();
        const bytes = prefix + (options.length ?? length);
        const result = this.#publish([outgoing(space, to, bytes, options)], []);
        open = result.status !== "published";
        return result;
      },
      abandon,
      [Symbol.dispose]: abandon,
    };
  }

  /**
   * Blocks until some reader has moved on since this writer last found no room, or for `timeout` milliseconds. True if it
   * may try again.
   */
  waitForSpace(timeout?: number): boolean {
    const { sequencer, waiting } = this.#ring;
    const index = layout.sequencer.space / 4;
    sequencer.waitForSpace(this.id, true);
    try {
      const seen = Atomics.load(sequencer.memory.i32, index);
      if (this.#hasRoom()) return true;
      return waiting.wait(sequencer.memory.i32, index, seen, timeout) !== "timed-out";
    } finally {
      sequencer.waitForSpace(this.id, false);
    }
  }

  /** The last look before sleep: whether what last found no room would find it now. */
  #hasRoom(): boolean {
    const { sequencer } = this.#ring;
    const spaces: Space[] = [];
    for (const length of this.#wanted) {
      const space = this.#lane.loan(sequencer, this.#peers, length);
      if (space.status === "loaned") spaces.push(space);
    }
    for (const space of spaces.toReversed()) this.#lane.abandon(space);
    if (spaces.length < this.#wanted.length) return false;
    const { stamp } = sequencer.find();
    this.#lane.gate.scan(sequencer, stamp, this.#peers);
    return stamp - this.#lane.gate.cached < sequencer.slotCount;
  }

  /** A batch takes at most half of the writer's memory, or it could wait for itself. */
  #checkFits(lengths: readonly number[]): void {
    const { headerCount, ringBytes } = this.#lane.geometry;
    const bytes = lengths.reduce((sum, length) => sum + nextMultiple(length, layout.payload.alignment), 0);
    if (lengths.length > 1 && (lengths.length > headerCount / 2 || bytes > ringBytes / 2)) {
      throw new RingError(
        "ERR_RING_TOO_BIG",
        `a batch of ${lengths.length} messages and ${bytes} bytes: at most ${headerCount / 2} and ${ringBytes / 2}`,
      );
    }
  }

  #address(space: Space, to: Destination): void {
    if (typeof to === "bigint") return;
    to.forEach((address, i) => {
      const at = (space.offset + 8 * i) / 4;
      this.#lane.own.u32[at] = lowHalf(address);
      this.#lane.own.u32[at + 1] = highHalf(address);
    });
  }

  #publish(frames: readonly Outgoing[], lengths: readonly number[]): Published | WouldBlock {
    const result = this.#lane.publish(this.#ring.sequencer, this.#peers, this.#owner, frames);
    if (result.status === "would-block") return this.#full(result, lengths);
    if (result.wake !== undefined) this.#ring.wakeReaders(result.stamp + 1);
    return result;
  }

  /** Who finds no room wakes everyone who sleeps: they may be what holds it. */
  #full(full: WouldBlock, lengths: readonly number[]): WouldBlock {
    this.#wanted = lengths;
    this.#lane.countWouldBlock();
    this.#ring.wakeReaders(full.stamp);
    return full;
  }
}

/** Bytes of the addresses in front of a transaction's data. */
function prefixOf(to: Destination): number {
  if (typeof to === "bigint") return 0;
  if (to.length === 0) throw new RangeError("a message has at least one destination");
  return 8 * to.length;
}

function outgoing(space: Space, to: Destination, length: number, options: PublishOptions): Outgoing {
  return {
    space,
    kind: typeof to === "bigint" ? "message" : "transaction",
    destinations: typeof to === "bigint" ? [to] : to,
    topic: options.topic ?? 0n,
    descriptors: 0,
    time: options.time ?? process.hrtime.bigint(),
    length,
  };
}
