// Who sleeps, and for what. Each side stores before it loads (Dekker's handshake):
//
//   reader                              publisher
//   set own bits                        fill the slot
//   v = hint                            load the rows of the bucket
//   look once more                      somebody there: raise the hint past the stamp, then notify
//   sleep while hint == v
//
// A bit is set and cleared by its sleeper alone: a publisher that is killed in between delays its own message only.
import { type BucketSet, controlBucket } from "./bucket.ts";
import { layout } from "./layout.ts";
import type { Members } from "./member.ts";
import type { Memory } from "./memory.ts";

const at = layout.sequencer;
/** The row of those who have more buckets than they care to list. */
const anyRow = 0;
/** The row of everyone asleep. */
const everyoneRow = 255;
const listed = 16;

/** How a sleeper is woken: by the futex, or by the bell that its event loop polls. */
export type SleepKind = "futex" | "poll";

function rows(set: BucketSet): number[] {
  const buckets = [...set];
  return buckets.length > listed
    ? [anyRow, everyoneRow]
    : [...buckets.filter((bucket) => bucket < controlBucket), everyoneRow];
}

export class Sleepers {
  readonly #u32: Uint32Array;
  readonly #members: Members;

  constructor(memory: Memory, members: Members) {
    this.#u32 = memory.u32;
    this.#members = members;
  }

  #row(row: number): number {
    return (at.sleepers + row * at.sleeperRow) / 4;
  }

  /** Announces that `id` goes to sleep. After this it loads the hint, looks once more and only then sleeps. */
  enter(id: number, set: BucketSet, kind: SleepKind): void {
    const [index, bit] = [id >>> 5, 1 << (id & 31)];
    if (kind === "poll") Atomics.or(this.#u32, at.pollers / 4 + index, bit);
    else Atomics.and(this.#u32, at.pollers / 4 + index, ~bit);
    for (const row of rows(set)) Atomics.or(this.#u32, this.#row(row) + index, bit);
  }

  /** Takes the announcement back. */
  leave(id: number, set: BucketSet): void {
    for (const row of rows(set)) Atomics.and(this.#u32, this.#row(row) + (id >>> 5), ~(1 << (id & 31)));
  }

  /** Clears every bit of an id whose owner is gone. */
  forget(id: number): void {
    const [index, mask] = [id >>> 5, ~(1 << (id & 31))];
    for (let row = 0; row < 256; row++) Atomics.and(this.#u32, this.#row(row) + index, mask);
    Atomics.and(this.#u32, at.pollers / 4 + index, mask);
    Atomics.and(this.#u32, at.spaceWaiters / 4 + index, mask);
  }

  /** Whether a frame of `bucket` concerns somebody who sleeps. Only right after its slot was filled. */
  any(bucket: number): boolean {
    const halves = Math.ceil(this.#members.high / 64) * 2;
    const all = bucket >= controlBucket;
    const row = this.#row(all ? everyoneRow : bucket);
    const unlisted = this.#row(anyRow);
    for (let half = 0; half < halves; half++) {
      if (Atomics.load(this.#u32, row + half) !== 0) return true;
      if (!all && Atomics.load(this.#u32, unlisted + half) !== 0) return true;
    }
    return false;
  }
}
