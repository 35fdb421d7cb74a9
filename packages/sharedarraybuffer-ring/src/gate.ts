// The gate: the smallest counting cursor. Nothing at or above it is overwritten.
//
// gate = min(s, every counting cursor), where s was found before the first cursor is read. Without s a reader that joins
// during the scan is missed by it and overrun later. A gate once computed stays true, so it is cached and never falls.
import { BucketSet, controlBucket, mixedBucket } from "./bucket.ts";
import { layout } from "./layout.ts";
import { counts, type Member } from "./member.ts";
import type { Memory } from "./memory.ts";
import type { Sequencer } from "./sequencer.ts";

/** Where a publisher finds the memory of the attachments: that of `id`, if it is mapped for that generation. */
export type Peers = (id: number, generation: number) => Memory | undefined;

/** A reader that holds something, and its cursor. */
export interface Holder {
  readonly id: number;
  readonly cursor: number;
}

interface Counting extends Holder {
  readonly buckets: BucketSet;
}

/** A publisher's knowledge of the readers. */
export class Gate {
  #cached = 0;
  #scannedAt = 0;
  #readers: Counting[] = [];

  /** The gate as last computed. */
  get cached(): number {
    return this.#cached;
  }

  /** Reads every counting cursor. `stamp` is the first free slot, found before. */
  scan(sequencer: Sequencer, stamp: number, peers: Peers): void {
    const readers: Counting[] = [];
    let gate = stamp;
    const high = sequencer.members.high;
    for (let id = 0; id < high; id++) {
      const member = sequencer.members.read(id);
      if (!counts(member)) continue;
      const reader = countingValue(id, member, stamp, peers(id, member.generation));
      gate = Math.min(gate, reader.cursor);
      readers.push(reader);
    }
    this.#readers = readers;
    this.#scannedAt = stamp;
    this.#cached = Math.max(this.#cached, gate);
  }

  /** Whether every counting reader that may read a frame of `bucket` had passed `stamp` at the last scan. */
  hasPassed(stamp: number, bucket: number): boolean {
    if (stamp < this.#cached) return true;
    return (
      stamp < this.#scannedAt &&
      this.#readers.every((reader) => reader.cursor > stamp || !reader.buckets.has(bucket))
    );
  }

  /** The reader that holds the order: the one with the smallest cursor at the last scan. */
  slowest(): Holder | undefined {
    return smallest(this.#readers);
  }

  /** The reader that holds a frame of `bucket` published at `stamp`. */
  holder(stamp: number, bucket: number): Holder | undefined {
    return smallest(this.#readers.filter((reader) => reader.cursor <= stamp && reader.buckets.has(bucket)));
  }
}

function smallest(readers: readonly Counting[]): Holder | undefined {
  let found: Counting | undefined;
  for (const reader of readers) if (found === undefined || reader.cursor < found.cursor) found = reader;
  return found && { id: found.id, cursor: found.cursor };
}

/**
 * What a reader's cursor counts as: clamped between its floor and `stamp`, so that neither a forged value nor one from
 * before its join does harm; its floor alone while its memory is not mapped, or it is joining.
 */
function countingValue(id: number, member: Member, stamp: number, page: Memory | undefined): Counting {
  if (page === undefined || member.reader !== "live") {
    return { id, cursor: Math.min(member.floor, stamp), buckets: BucketSet.all() };
  }
  // SYNC release: what the reader did with the frames below its cursor happened before they are overwritten.
  const cursor = Number(page.load(layout.payload.cursor));
  const buckets = new BucketSet([controlBucket, mixedBucket]);
  for (let i = 0; i < 8; i++) buckets.words[i]! |= Atomics.load(page.u32, layout.payload.buckets / 4 + i);
  return { id, cursor: Math.min(Math.max(cursor, member.floor), stamp), buckets };
}
