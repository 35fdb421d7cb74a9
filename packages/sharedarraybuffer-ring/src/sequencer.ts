// The sequencer ring: the one shared array whose slot numbers are the stamps.
//
// Filling a slot is one compare-and-swap from the word of the previous lap to a complete new word. A slot is tried only
// after the one before it was seen filled, so the order has no holes and respects real time.
import { controlBucket } from "./bucket.ts";
import { RingError } from "./errors.ts";
import { layout, sequencerBytes } from "./layout.ts";
import { Members } from "./member.ts";
import { type Memory, word } from "./memory.ts";
import { Sleepers } from "./sleepers.ts";
import { encodeSlotWord, lapsAhead } from "./slot-word.ts";

const at = layout.sequencer;

/** How often the tail is looked for before the order is given up: others may overtake a walk. */
const walks = 4;

/** The first free slot, as it was found. */
export interface Found {
  /** The stamp that a publish would get. */
  readonly stamp: number;
  /** The word that stands there. */
  readonly word: bigint;
}

export class Sequencer {
  static readonly minSlots: number = 2 ** 6;
  static readonly maxSlots: number = 2 ** 24;

  readonly memory: Memory;
  readonly slotCount: number;
  readonly members: Members;
  readonly sleepers: Sleepers;
  /** The halves of the slot word that was read last. */
  high = 0;
  low = 0;

  private constructor(memory: Memory, slotCount: number) {
    this.memory = memory;
    this.slotCount = slotCount;
    this.members = new Members(memory);
    this.sleepers = new Sleepers(memory, this.members);
  }

  static checkSlots(slots: number): void {
    if (!(slots >= Sequencer.minSlots && slots <= Sequencer.maxSlots && Number.isInteger(Math.log2(slots)))) {
      throw new RingError(
        "ERR_RING_GEOMETRY",
        `slots must be a power of two from ${Sequencer.minSlots} to ${Sequencer.maxSlots}, not ${slots}`,
      );
    }
  }

  /** Makes a sequencer of zeroed memory. Slot 0 is filled here and never read, so that stamp 0 means "none". */
  static create(memory: Memory, slots: number, busId: bigint): Sequencer {
    Sequencer.checkSlots(slots);
    if (memory.byteLength !== sequencerBytes(slots)) {
      throw new RingError(
        "ERR_RING_GEOMETRY",
        `${slots} slots need ${sequencerBytes(slots)} bytes, not ${memory.byteLength}`,
      );
    }
    memory.store(at.version, layout.layoutVersion);
    memory.store(at.slotCount, slots);
    memory.store(at.busIdLow, BigInt.asUintN(64, busId));
    memory.store(at.busIdHigh, BigInt.asUintN(64, busId >> 64n));
    memory.store(at.slots, encodeSlotWord(0, slots, { sender: 0, index: 0, bucket: controlBucket }));
    memory.store(at.hint, 1);
    memory.store(at.magic, layout.sequencerMagic);
    return new Sequencer(memory, slots);
  }

  /** Opens a sequencer that somebody else made. Each word of its description is read once and checked. */
  static open(memory: Memory): Sequencer {
    const slots = Sequencer.slotsOf(memory);
    if (memory.byteLength !== sequencerBytes(slots)) {
      throw new RingError("ERR_RING_GEOMETRY", `a slot count of ${slots} does not fit the memory`);
    }
    return new Sequencer(memory, slots);
  }

  /** The number of slots that a sequencer memory says it has. */
  static slotsOf(memory: Memory): number {
    if (memory.byteLength < at.slots) {
      throw new RingError("ERR_RING_GEOMETRY", `a memory of ${memory.byteLength} bytes holds no sequencer`);
    }
    const magic = memory.load(at.magic);
    if (magic !== layout.sequencerMagic) {
      throw new RingError("ERR_RING_FORMAT", `not a sequencer memory: magic 0x${magic.toString(16)}`);
    }
    const version = memory.load(at.version);
    if (version !== BigInt(layout.layoutVersion)) {
      throw new RingError(
        "ERR_RING_FORMAT",
        `layout version ${version}, this build has ${layout.layoutVersion}`,
      );
    }
    const slots = Number(memory.load(at.slotCount));
    Sequencer.checkSlots(slots);
    return slots;
  }

  /** Random 128-bit id. */
  get busId(): bigint {
    return this.memory.load(at.busIdLow) | (this.memory.load(at.busIdHigh) << 64n);
  }

  /**
   * Reads the slot of `stamp` into `high` and `low` and gives how many laps it is ahead. A slot changes once a lap, and
   * its tag with it: where the high half is the same before and after, the low half belongs to it.
   */
  read(stamp: number): number {
    const { u32 } = this.memory;
    const index = at.slots / 4 + (stamp % this.slotCount) * 2;
    let high = Atomics.load(u32, index + 1);
    for (;;) {
      const low = Atomics.load(u32, index);
      const again = Atomics.load(u32, index + 1);
      if (again === high) {
        this.high = high;
        this.low = low;
        return lapsAhead(high, stamp, this.slotCount);
      }
      high = again;
    }
  }

  /** Whether the slot of `stamp` is filled, in its lap or a later one. */
  isFilled(stamp: number): boolean {
    return this.read(stamp) >= 0;
  }

  /**
   * Finds the first free slot: one that holds the previous lap's word while the slot before it was seen filled. A hint that
   * lags costs steps, one that is ahead makes the walk step back.
   *
   * @throws RingError `ERR_RING_SPOILED` if there is none within a lap of any stamp that the hint gives.
   */
  find(hint: number = this.hint): Found {
    for (let more = walks - 1; ; more--) {
      const walked = this.#walk(more === walks - 1 ? hint : this.hint);
      if (typeof walked === "object") return walked;
      if (more === 0) {
        throw new RingError("ERR_RING_SPOILED", `the order was overwritten around stamp ${walked}`);
      }
    }
  }

  /** The free slot, or the stamp where the search gave up. */
  #walk(hint: number): Found | number {
    let stamp = Math.max(hint, 1);
    let seenBefore = false;
    for (let steps = 0; steps <= this.slotCount + 2; steps++) {
      // Stamp 0, or one that no ring lives to see and that numbers do not count to.
      if (stamp < 1 || stamp > Number.MAX_SAFE_INTEGER - this.slotCount) return stamp;
      const laps = this.read(stamp);
      if (laps === 0) {
        seenBefore = true;
        stamp += 1;
      } else if (laps > 0) {
        // Everything up to there is filled, so the walk jumps.
        seenBefore = false;
        stamp += laps * this.slotCount;
      } else {
        const { high, low } = this;
        if (laps === -1 && (seenBefore || this.isFilled(stamp - 1))) return { stamp, word: word(high, low) };
        // Free, but so is its neighbour; or an older lap: the hint is ahead of the tail.
        seenBefore = false;
        stamp -= 1;
      }
    }
    return stamp;
  }

  /** Swaps `next` into a found slot: the publish (SYNC publish). */
  fill(found: Found, next: bigint): boolean {
    const offset = at.slots + (found.stamp % this.slotCount) * 8;
    return this.memory.compareExchange(offset, found.word, next) === found.word;
  }

  /** The tail hint: how many slots are filled at least, while nobody scribbles. */
  get hint(): number {
    return this.memory.loadRising(at.hint);
  }

  /** Raises the hint to `tail`. Never lowers it. */
  raiseHint(tail: number): void {
    this.memory.raise(at.hint, tail);
  }

  /** Whether a publisher of some attachment waits for space. After a cursor was stored (SYNC space). */
  get spaceWanted(): boolean {
    const halves = Math.ceil(this.members.high / 64) * 2;
    for (let half = 0; half < halves; half++) {
      if (Atomics.load(this.memory.u32, at.spaceWaiters / 4 + half) !== 0) return true;
    }
    return false;
  }

  /** Sets or clears the bit of a publisher that waits for space. It sets it, loads the space word, tries once more. */
  waitForSpace(id: number, waiting: boolean): void {
    const [index, bit] = [at.spaceWaiters / 4 + (id >>> 5), 1 << (id & 31)];
    if (waiting) Atomics.or(this.memory.u32, index, bit);
    else Atomics.and(this.memory.u32, index, ~bit);
  }

  /** Counts a release of space, before the waiters are woken. */
  releaseSpace(): void {
    Atomics.add(this.memory.u64, at.space / 8, 1n);
  }
}
