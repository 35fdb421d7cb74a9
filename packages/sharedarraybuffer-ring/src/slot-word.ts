// The slot word: all that a publish puts into the shared order, in one 64-bit word.
//
//   lap tag 30 | sender id 10 | header index 16 | bucket 8
//
// The tag of lap l is (l + 1) mod 2^30, so a slot that was never written (0) carries the tag of the lap before the first.
// In halves: high = tag << 2 | sender >> 8, low = sender << 24 | index << 8 | bucket.
import { highHalf, lowHalf, word } from "./memory.ts";

const tags = 2 ** 30;

/** What a slot word says. */
export interface SlotFields {
  readonly sender: number;
  readonly index: number;
  readonly bucket: number;
}

/** The tag that the slot of `stamp` carries once it is filled, in a ring of `slots` slots. */
export function lapTag(stamp: number, slots: number): number {
  return (Math.floor(stamp / slots) + 1) % tags;
}

/** The high half of the word of `sender` in the slot of `stamp`. */
export function slotHigh(stamp: number, slots: number, sender: number): number {
  return ((lapTag(stamp, slots) << 2) | (sender >>> 8)) >>> 0;
}

/** The low half. */
export function slotLow(sender: number, index: number, bucket: number): number {
  return ((sender << 24) | (index << 8) | bucket) >>> 0;
}

export function senderOf(high: number, low: number): number {
  return ((high & 3) << 8) | (low >>> 24);
}

export function indexOf(low: number): number {
  return (low >>> 8) & 0xffff;
}

export function bucketIn(low: number): number {
  return low & 0xff;
}

/**
 * How many laps a word with this high half is ahead of the lap of `stamp`: 0 when the slot is filled for `stamp`, -1 when it
 * still holds the previous lap, positive when it has moved on. Tags compare as 30-bit signed numbers.
 */
export function lapsAhead(high: number, stamp: number, slots: number): number {
  return (((high >>> 2) - lapTag(stamp, slots)) << 2) >> 2;
}

/** The word that names header `index` of `sender` in the slot of `stamp`. */
export function encodeSlotWord(stamp: number, slots: number, fields: SlotFields): bigint {
  return word(slotHigh(stamp, slots, fields.sender), slotLow(fields.sender, fields.index, fields.bucket));
}

export function decodeSlotWord(value: bigint): SlotFields {
  const [high, low] = [highHalf(value), lowHalf(value)];
  return { sender: senderOf(high, low), index: indexOf(low), bucket: bucketIn(low) };
}
