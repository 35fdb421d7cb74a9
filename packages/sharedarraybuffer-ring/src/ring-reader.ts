import { everyone, group, unicast } from "./address.ts";
import { bucketOf } from "./bucket.ts";
import { RingError } from "./errors.ts";
import type { Frame } from "./frame.ts";
import { layout } from "./layout.ts";
import type { Memory } from "./memory.ts";
import { Reader, type Violation } from "./reader.ts";
import type { Ring } from "./ring.ts";

export interface RingReaderOptions {
  /** Groups to read, 1 to 65535, besides messages to this attachment and to everyone. */
  readonly groups?: Iterable<number> | undefined;
  /**
   * What happens when this reader is slow. `block`: publishers find no room, and nothing is lost. `lossy`: they overwrite,
   * and the reader is told what it has missed.
   * @default "block"
   */
  readonly overload?: "block" | "lossy" | undefined;
  /** Told of slots that nobody can have filled by the rules. They are skipped and counted. */
  readonly onViolation?: ((violation: Violation) => void) | undefined;
}

/** Stamps that a lossy reader has missed: from `from` up to, but without, `to`. */
export interface Gap {
  readonly step: "gap";
  readonly from: number;
  readonly to: number;
}

/** Frames that {@link RingReader.poll} hands out before it ends their leases. */
const leases = 32;

/** Reads as one attachment: every message to it, to its groups and to everyone, in the one order. */
export class RingReader {
  readonly id: number;
  readonly overload: "block" | "lossy";
  readonly #ring: Ring;
  readonly #page: Memory;
  readonly #reader: Reader;
  readonly #addresses: Set<bigint>;
  readonly #onViolation: ((violation: Violation) => void) | undefined;
  /** Messages lent since the last release. */
  #lent = 0;
  /** The cursor as it stands in the page. */
  #cursor = 0;
  #open = true;

  /** @throws RingError `ERR_RING_STATE` if there is no such attachment, or it is not live, or has a reader already. */
  constructor(ring: Ring, id: number, options: RingReaderOptions) {
    const own = ring.sender(id);
    if (own === undefined) throw new RingError("ERR_RING_STATE", `there is no attachment ${id}`);
    this.id = id;
    this.overload = options.overload ?? "block";
    this.#ring = ring;
    this.#page = own.memory;
    this.#onViolation = options.onViolation;
    this.#addresses = new Set([everyone, unicast(id), ...Array.from(options.groups ?? [], group)]);
    const senders = (sender: number): ReturnType<Ring["sender"]> => ring.sender(sender);
    this.#reader = new Reader(ring.sequencer, senders, 0, Array.from(this.#addresses, bucketOf));
    this.#cursor = this.#join();
    this.#reader.resume(this.#cursor);
  }

  /** Takes a place in the order and gives the stamp that it starts at. */
  #join(): number {
    const { sequencer } = this.#ring;
    const { members } = sequencer;
    const member = members.read(this.id);
    if (member.attach !== "live" || member.reader === "live" || member.reader === "joining") {
      throw new RingError(
        "ERR_RING_STATE",
        `attachment ${this.id} is ${member.attach} and has ${member.reader === "none" ? "no" : "a"} reader`,
      );
    }
    this.#reader.buckets.words.forEach((half, i) => {
      Atomics.store(this.#page.u32, layout.payload.buckets / 4 + i, half);
    });
    if (this.overload === "lossy") {
      members.change(this.id, () => ({ reader: "none", policy: "lossy" }));
      const { stamp } = sequencer.find();
      this.#page.store(layout.payload.cursor, stamp);
      return stamp;
    }
    members.setReader(this.id, sequencer.find().stamp, 0, 0);
    members.change(this.id, () => ({ reader: "joining", policy: "block" }));
    // Found after the word was changed: whoever has not seen it yet had found a stamp at or below this one, and overwrites
    // nothing from there on.
    const { stamp } = sequencer.find();
    this.#page.store(layout.payload.cursor, stamp);
    members.change(this.id, (now) => (now.reader === "joining" ? { reader: "live" } : undefined));
    return stamp;
  }

  /** The oldest stamp not yet read to its end. */
  get position(): number {
    return this.#reader.position;
  }

  /** Stamps that it has yet to look at. */
  get lag(): number {
    return Math.max(this.#ring.tail - this.#reader.position, 0);
  }

  /**
   * The next message, or nothing if there is none yet; for a lossy reader also what it has missed. Its view is valid until
   * {@link RingReader.release}.
   *
   * @throws RingError `ERR_RING_EVICTED` if a reader that counts has lost its place.
   */
  next(): Frame | Gap | undefined {
    if (!this.#open) throw new RingError("ERR_RING_STATE", "the reader is closed");
    for (;;) {
      const step = this.#reader.next();
      switch (step.step) {
        case "empty":
          if (this.#reader.position - this.#cursor >= this.#ring.sequencer.slotCount / 8) this.#advance();
          return undefined;
        case "violation":
          this.#page.count(layout.payload.violations, 1);
          this.#onViolation?.(step);
          break;
        case "overrun":
          return this.#overrun();
        case "frame": {
          const concerns = this.#concerns(step);
          if (concerns === undefined) return { step: "gap", from: step.stamp, to: step.stamp + 1 };
          if (concerns) {
            this.#lent += 1;
            return step;
          }
        }
      }
    }
  }

  /** Nothing if a lossy reader cannot tell, because the destinations were overwritten. */
  #concerns(frame: Frame): boolean | undefined {
    if (frame.kind === "message") return this.#addresses.has(frame.destination);
    if (frame.kind === "control") return false;
    const concerns = frame.destinations.some((destination) => this.#addresses.has(destination));
    return this.overload === "block" || frame.intact() ? concerns : undefined;
  }

  #overrun(): Gap {
    if (this.overload === "block") this.#evicted();
    const from = this.#reader.position;
    const to = Math.max(this.#ring.tail - this.#ring.sequencer.slotCount / 2, from);
    this.#reader.resume(to);
    return { step: "gap", from, to };
  }

  #evicted(): never {
    throw new RingError(
      "ERR_RING_EVICTED",
      `reader ${this.id} was evicted at stamp ${this.#reader.position}: what it was lent since its last release may be torn`,
    );
  }

  /**
   * Ends the leases of every message read so far, so that their memory can be used again.
   *
   * @throws RingError `ERR_RING_EVICTED` if the reader had lost its place: what it read since the last release may be torn.
   */
  release(): void {
    if (this.#lent > 0) this.#page.count(layout.payload.delivered, this.#lent);
    this.#lent = 0;
    this.#advance();
    if (this.overload === "block") {
      const { reader } = this.#ring.sequencer.members.read(this.id);
      if (reader !== "live") this.#evicted();
    }
  }

  /**
   * Hands up to `limit` messages to `handler` and gives how many: the lease of each is the call. Gaps are handed over too
   * and count as one.
   */
  poll(handler: (message: Frame | Gap) => void, limit: number = Infinity): number {
    let count = 0;
    try {
      while (count < limit) {
        const message = this.next();
        if (message === undefined) break;
        count += 1;
        handler(message);
        if (count % leases === 0) this.release();
      }
    } finally {
      this.release();
    }
    return count;
  }

  /** Blocks until something may be there to read, or for `timeout` milliseconds. True if there is. */
  wait(timeout?: number): boolean {
    const { waiting, sequencer } = this.#ring;
    return this.#asleep(() => {
      const end = timeout === undefined ? Infinity : performance.now() + timeout;
      for (;;) {
        const seen = this.#hint();
        if (this.#ready()) return true;
        const left = end - performance.now();
        if (left <= 0) return false;
        if (waiting.wait(sequencer.memory.i32, layout.sequencer.hint / 4, seen, left) === "timed-out") {
          return this.#ready();
        }
      }
    });
  }

  /** The same without blocking the thread. A pending one does not keep the process alive. */
  async waitAsync(timeout?: number): Promise<boolean> {
    const { waiting, sequencer } = this.#ring;
    if (waiting.waitAsync === undefined) {
      throw new RingError("ERR_RING_STATE", "the ring was opened without a waitAsync function");
    }
    const end = timeout === undefined ? Infinity : performance.now() + timeout;
    this.#enter();
    try {
      for (;;) {
        const seen = this.#hint();
        if (this.#ready()) return true;
        const left = end - performance.now();
        if (left <= 0) return false;
        const index = layout.sequencer.hint / 4;
        const result = waiting.waitAsync(sequencer.memory.i32, index, seen, left);
        if ((await result.value) === "timed-out") return this.#ready();
      }
    } finally {
      this.#leave();
    }
  }

  #asleep<T>(action: () => T): T {
    this.#enter();
    try {
      return action();
    } finally {
      this.#leave();
    }
  }

  /** SYNC sleep: the bits before the last look. */
  #enter(): void {
    this.#ring.sequencer.sleepers.enter(this.id, this.#reader.buckets, "futex");
    this.#page.count(layout.payload.sleepEpoch, 1);
  }

  #leave(): void {
    this.#ring.sequencer.sleepers.leave(this.id, this.#reader.buckets);
  }

  #hint(): number {
    return Atomics.load(this.#ring.sequencer.memory.i32, layout.sequencer.hint / 4);
  }

  /** Stores the cursor, unless something is lent: a reader that nothing concerns must not hold the order. */
  #advance(): void {
    if (this.#lent > 0 || this.#cursor === this.#reader.position) return;
    this.#cursor = this.#reader.position;
    // SYNC release: the reads of the payloads before the cursor. The store keeps them before it.
    this.#page.store(layout.payload.cursor, this.#cursor);
    this.#ring.wakeWriters();
  }

  /** The last look before sleep: past what cannot concern it, as far as that goes without taking a lap's time. */
  #ready(): boolean {
    this.#reader.skip(this.#ring.sequencer.slotCount);
    this.#advance();
    return this.#reader.ready;
  }

  /** Gives its place up: publishers no longer wait for it. Every view ends. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#ring.sequencer.members.change(this.id, (member) =>
      member.attach === "live" && member.reader !== "evicted" ? { reader: "none" } : undefined,
    );
    this.#ring.wakeWriters();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
