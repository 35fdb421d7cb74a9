/** What a subscriber counts: delivery latency, rates, order, gaps and a digest of all it saw. */
import { createHistogram } from "node:perf_hooks";

/** Delivery latency in microseconds; all 0 while there is nothing to tell. */
export interface LatencySummary {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

const nothingYet: LatencySummary = { p50: 0, p99: 0, p999: 0, max: 0 };
const longestNanoseconds = 60_000_000_000;

/** A histogram of delivery latencies, three figures exact, from 1 ns to 60 s. */
export class LatencyHistogram {
  readonly #histogram = createHistogram({ lowest: 1, highest: longestNanoseconds, figures: 3 });

  /** Adds one latency in microseconds; below 1 ns it counts as 1 ns, above 60 s as 60 s. */
  record(microseconds: number): void {
    const nanoseconds = Math.round(microseconds * 1e3);
    this.#histogram.record(Math.min(Math.max(nanoseconds, 1), longestNanoseconds));
  }

  /** How many latencies were added. */
  get count(): number {
    return this.#histogram.count;
  }

  /** Adds all latencies of another histogram of this process. */
  merge(other: LatencyHistogram): void {
    if (other.count > 0) this.#histogram.add(other.#histogram);
  }

  /** Forgets everything. */
  reset(): void {
    this.#histogram.reset();
  }

  summary(): LatencySummary {
    const histogram = this.#histogram;
    if (histogram.count === 0) return nothingYet;
    return {
      p50: histogram.percentile(50) / 1e3,
      p99: histogram.percentile(99) / 1e3,
      p999: histogram.percentile(99.9) / 1e3,
      max: histogram.max / 1e3,
    };
  }
}

const meterSlots = 10;
const meterSlotMicroseconds = 100_000;

/** Events a second over about the last second. Times are microseconds of any one clock. */
export class RateMeter {
  readonly #counts = new Float64Array(meterSlots + 1);
  #startMicroseconds: number;
  #latestSlot = 0;
  #total = 0;

  constructor(startMicroseconds: number) {
    this.#startMicroseconds = startMicroseconds;
  }

  /** All events so far. */
  get total(): number {
    return this.#total;
  }

  /** Counts events that happened now. */
  add(nowMicroseconds: number, count = 1): void {
    const slot = this.#advance(nowMicroseconds);
    const index = slot % this.#counts.length;
    this.#counts[index] = (this.#counts[index] ?? 0) + count;
    this.#total += count;
  }

  /** Events a second over the last 1 to 1.1 s, or since the start if that is less. */
  perSecond(nowMicroseconds: number): number {
    const slot = this.#advance(nowMicroseconds);
    const from = Math.max(0, slot - meterSlots) * meterSlotMicroseconds;
    const elapsed = nowMicroseconds - this.#startMicroseconds - from;
    if (elapsed <= 0) return 0;
    let sum = 0;
    for (const count of this.#counts) sum += count;
    return (sum * 1e6) / elapsed;
  }

  #advance(nowMicroseconds: number): number {
    const elapsed = nowMicroseconds - this.#startMicroseconds;
    const slot = Math.max(this.#latestSlot, Math.floor(elapsed / meterSlotMicroseconds));
    const cleared = Math.min(slot - this.#latestSlot, this.#counts.length);
    for (let step = 0; step < cleared; step += 1) {
      this.#counts[(slot - step) % this.#counts.length] = 0;
    }
    this.#latestSlot = slot;
    return slot;
  }
}

/** What an `OrderChecker` counted. */
export interface OrderCounts {
  readonly messages: number;
  /** Stamps that were not above the one before. */
  readonly orderViolations: number;
  /** Places where a sender's own sequence number did not go on by one. */
  readonly gaps: number;
  /** Messages missing at those places. */
  readonly missing: number;
  /** The first and the latest stamp; undefined before the first message. */
  readonly firstStamp: number | undefined;
  readonly lastStamp: number | undefined;
}

const sequenceModulus = 2 ** 32;

/**
 * Checks that stamps only grow and that no sender's sequence numbers have a hole. Sequence
 * numbers are 32 bits wide and go on with 0 after the last; a sender may be met at any number.
 */
export class OrderChecker {
  #messages = 0;
  #orderViolations = 0;
  #gaps = 0;
  #missing = 0;
  #firstStamp: number | undefined;
  #lastStamp: number | undefined;
  readonly #next = new Map<number, number>();

  /** Takes the next message as the subscriber got it; true if all is well with it. */
  observe(stamp: number, sender: number, sequence: number): boolean {
    let fine = true;
    this.#messages += 1;
    this.#firstStamp ??= stamp;
    if (this.#lastStamp !== undefined && stamp <= this.#lastStamp) {
      this.#orderViolations += 1;
      fine = false;
    }
    this.#lastStamp = stamp;
    const expected = this.#next.get(sender);
    if (expected !== undefined && sequence !== expected) {
      const ahead = (sequence - expected + sequenceModulus) % sequenceModulus;
      this.#gaps += 1;
      // More than half way round is a step back: a repeated message, none that is missing.
      if (ahead < sequenceModulus / 2) this.#missing += ahead;
      fine = false;
    }
    this.#next.set(sender, (sequence + 1) % sequenceModulus);
    return fine;
  }

  counts(): OrderCounts {
    return {
      messages: this.#messages,
      orderViolations: this.#orderViolations,
      gaps: this.#gaps,
      missing: this.#missing,
      firstStamp: this.#firstStamp,
      lastStamp: this.#lastStamp,
    };
  }
}

/** The stamps that one block covers, unless told: block b holds b*1024 to b*1024+1023. */
export const defaultBlockSize = 1024;

/** One block: its number (stamp divided by the block size), its messages, its hash in hex. */
export type BlockDigest = readonly [block: number, messages: number, digest: string];

/** The blocks that a subscriber saw whole, in order; plain data that can go to a process. */
export interface DigestSnapshot {
  readonly blockSize: number;
  /** The first and the last block that count as seen whole, also where they hold no message. */
  readonly firstBlock: number | undefined;
  readonly lastBlock: number | undefined;
  readonly blocks: readonly BlockDigest[];
}

/** How a `SequenceDigest` cuts what it sees. */
export interface SequenceDigestOptions {
  /** Stamps a block; 1024 unless told. Two digests are compared only if it is the same. */
  readonly blockSize?: number;
  /**
   * The first stamp that the subscriber could have seen, where it is known: blocks that start
   * there or later count as whole (0 where it was there before the first message of all).
   * Without it a block counts if its own first stamp was seen, or a stamp of an earlier block.
   */
  readonly firstStamp?: number;
  /** At least so many of the latest blocks are kept, at most twice as many; 65536 unless told. */
  readonly maximumBlocks?: number;
}

/**
 * A running hash over (stamp, sender, checksum), cut into blocks by stamp. Two subscribers that
 * began and ended at different times can compare the blocks that both saw from end to end. The
 * hash (64 bits, not cryptographic) depends on the order.
 */
export class SequenceDigest {
  readonly #blockSize: number;
  readonly #maximumBlocks: number;
  #blocks: BlockDigest[] = [];
  #firstBlock: number | undefined;
  #current: number | undefined;
  #currentIsWhole = false;
  #lastStamp: number | undefined;
  #messages = 0;
  #low = 0;
  #high = 0;

  constructor(options: SequenceDigestOptions = {}) {
    this.#blockSize = options.blockSize ?? defaultBlockSize;
    this.#maximumBlocks = options.maximumBlocks ?? 65_536;
    if (!Number.isSafeInteger(this.#blockSize) || this.#blockSize < 1) {
      throw new RangeError(`A block has a whole number of stamps, at least 1, not ${this.#blockSize}.`);
    }
    if (options.firstStamp !== undefined) {
      this.#firstBlock = Math.ceil(options.firstStamp / this.#blockSize);
    }
  }

  /**
   * Takes the next message. Stamp and sender are whole numbers from 0 up to 2^53-1, the
   * checksum has 32 bits.
   */
  observe(stamp: number, sender: number, checksum: number): void {
    const block = Math.floor(stamp / this.#blockSize);
    if (block !== this.#current) {
      this.#close();
      this.#firstBlock ??= stamp === block * this.#blockSize ? block : block + 1;
      this.#current = block;
      this.#currentIsWhole = block >= this.#firstBlock;
    }
    this.#messages += 1;
    this.#lastStamp = stamp;
    this.#mix(stamp | 0);
    this.#mix(Math.floor(stamp / 0x1_0000_0000));
    this.#mix(sender | 0);
    this.#mix(Math.floor(sender / 0x1_0000_0000));
    this.#mix(checksum | 0);
  }

  /**
   * The blocks seen whole so far; the block of the latest stamp counts if that was its last.
   * @param complete - true if nothing can follow any more (all publishers have ended and all
   *   was read): the block of the latest stamp then counts as whole too.
   */
  snapshot(complete = false): DigestSnapshot {
    const blocks = [...this.#blocks];
    const current = this.#current;
    let lastBlock: number | undefined;
    if (current !== undefined) {
      const ended = complete || this.#lastStamp === (current + 1) * this.#blockSize - 1;
      if (ended && this.#currentIsWhole) blocks.push(this.#digest(current));
      lastBlock = ended ? current : current - 1;
    }
    const firstBlock = this.#firstBlock;
    const any = firstBlock !== undefined && lastBlock !== undefined && firstBlock <= lastBlock;
    return {
      blockSize: this.#blockSize,
      firstBlock: any ? firstBlock : undefined,
      lastBlock: any ? lastBlock : undefined,
      blocks,
    };
  }

  #close(): void {
    if (this.#current !== undefined && this.#currentIsWhole) {
      this.#blocks.push(this.#digest(this.#current));
      if (this.#blocks.length >= this.#maximumBlocks * 2) {
        this.#blocks = this.#blocks.slice(-this.#maximumBlocks);
        this.#firstBlock = this.#blocks[0]?.[0] ?? this.#firstBlock;
      }
    }
    this.#messages = 0;
    this.#low = 0x9e3779b9;
    this.#high = 0x85ebca6b;
  }

  #mix(word: number): void {
    let mixed = Math.imul(word, 0xcc9e2d51 | 0);
    mixed = (mixed << 15) | (mixed >>> 17);
    mixed = Math.imul(mixed, 0x1b873593);
    const low = this.#low ^ mixed;
    this.#low = (Math.imul((low << 13) | (low >>> 19), 5) + 0xe6546b64) | 0;
    const high = this.#high ^ Math.imul(word ^ this.#low, 0x2c1b3c6d);
    this.#high = (Math.imul((high << 17) | (high >>> 15), 9) + 0x38b34ae5) | 0;
  }

  #digest(block: number): BlockDigest {
    return [block, this.#messages, hex(finish(this.#high)) + hex(finish(this.#low))];
  }
}

function finish(word: number): number {
  let mixed = word ^ (word >>> 16);
  mixed = Math.imul(mixed, 0x85ebca6b | 0);
  mixed ^= mixed >>> 13;
  mixed = Math.imul(mixed, 0xc2b2ae35 | 0);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

function hex(word: number): string {
  return word.toString(16).padStart(8, "0");
}

/** How the digests of two subscribers compare. */
export interface DigestComparison {
  /** Blocks that both saw whole. */
  readonly comparedBlocks: number;
  /** Messages in those blocks, as the first subscriber counted them. */
  readonly comparedMessages: number;
  /** The numbers of the blocks that differ, in order. */
  readonly mismatchedBlocks: readonly number[];
}

/**
 * Compares the blocks that two subscribers both saw whole. A block in that range with messages
 * at one of them only is a mismatch.
 * @throws RangeError if their block sizes differ.
 */
export function compareDigests(a: DigestSnapshot, b: DigestSnapshot): DigestComparison {
  if (a.blockSize !== b.blockSize) {
    throw new RangeError(`Blocks of ${a.blockSize} and of ${b.blockSize} stamps cannot be compared.`);
  }
  if (
    a.firstBlock === undefined ||
    a.lastBlock === undefined ||
    b.firstBlock === undefined ||
    b.lastBlock === undefined
  ) {
    return { comparedBlocks: 0, comparedMessages: 0, mismatchedBlocks: [] };
  }
  const first = Math.max(a.firstBlock, b.firstBlock);
  const last = Math.min(a.lastBlock, b.lastBlock);
  const mismatched = new Set<number>();
  const inA = blocksBetween(a, first, last, mismatched);
  const inB = blocksBetween(b, first, last, mismatched);
  let comparedMessages = 0;
  for (const [block, [, messages, digest]] of inA) {
    comparedMessages += messages;
    const other = inB.get(block);
    if (other?.[1] !== messages || other[2] !== digest) mismatched.add(block);
  }
  for (const block of inB.keys()) {
    if (!inA.has(block)) mismatched.add(block);
  }
  return {
    comparedBlocks: new Set([...inA.keys(), ...inB.keys()]).size,
    comparedMessages,
    mismatchedBlocks: [...mismatched].sort((x, y) => x - y),
  };
}

function blocksBetween(
  snapshot: DigestSnapshot,
  first: number,
  last: number,
  repeated: Set<number>,
): Map<number, BlockDigest> {
  const found = new Map<number, BlockDigest>();
  for (const entry of snapshot.blocks) {
    const block = entry[0];
    if (block < first || block > last) continue;
    // Stamps that went back opened the block a second time.
    if (found.has(block)) repeated.add(block);
    found.set(block, entry);
  }
  return found;
}
