// Buckets: eight bits of the slot word that say whom a frame may concern, and sets of them.
import { everyone } from "./address.ts";
import { highHalf, lowHalf } from "./memory.ts";

/** Control records: they concern everyone. */
export const controlBucket = 254;
/** Frames for everyone, and frames whose destinations fall into different buckets. */
export const mixedBucket = 255;

/** Bits 32 to 63 of the product of two 64-bit words, in halves. */
function productHigh(aHigh: number, aLow: number, bHigh: number, bLow: number): number {
  const [a1, a0, b1, b0] = [aLow >>> 16, aLow & 0xffff, bLow >>> 16, bLow & 0xffff];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const carried = a0 * b1 + (middle % 2 ** 16);
  const high = a1 * b1 + Math.floor(middle / 2 ** 16) + Math.floor(carried / 2 ** 16);
  return ((high % 2 ** 32) + Math.imul(aHigh, bLow) + Math.imul(aLow, bHigh)) >>> 0;
}

/**
 * The bucket of one destination: 1 to 253, or {@link mixedBucket} for everyone. Never 0. Fibonacci hashing (Knuth, TAOCP 3,
 * 6.4): prefixes and suffixes that count up spread over the range.
 */
export function bucketOf(destination: bigint): number {
  if (destination === everyone) return mixedBucket;
  return 1 + (productHigh(highHalf(destination), lowHalf(destination), 0x9e37_79b9, 0x7f4a_7c15) % 253);
}

/** The bucket of a frame with several destinations: theirs if they share one. */
export function bucketOfAll(destinations: readonly bigint[]): number {
  const [first, ...others] = destinations;
  if (first === undefined) return mixedBucket;
  const bucket = bucketOf(first);
  return others.every((other) => bucketOf(other) === bucket) ? bucket : mixedBucket;
}

/** A set of buckets: 256 bits, as they stand in an attachment's page. */
export class BucketSet {
  readonly words: Uint32Array<ArrayBuffer>;

  constructor(buckets: Iterable<number> = []) {
    this.words = new Uint32Array(8);
    for (const bucket of buckets) this.add(bucket);
  }

  /** With the buckets that concern everyone. */
  static reader(buckets: Iterable<number> = []): BucketSet {
    return new BucketSet([...buckets, controlBucket, mixedBucket]);
  }

  static all(): BucketSet {
    const set = new BucketSet();
    set.words.fill(0xffff_ffff);
    return set;
  }

  add(bucket: number): void {
    this.words[bucket >>> 5]! |= 1 << (bucket & 31);
  }

  has(bucket: number): boolean {
    return ((this.words[bucket >>> 5]! >>> (bucket & 31)) & 1) !== 0;
  }

  /** Ascending. */
  *[Symbol.iterator](): Generator<number, undefined> {
    for (let bucket = 0; bucket < 256; bucket++) if (this.has(bucket)) yield bucket;
  }
}
