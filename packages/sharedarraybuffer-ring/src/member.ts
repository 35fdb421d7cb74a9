// The member table: one entry an id in the sequencer memory, where a reader's fate is kept out of its own reach.
//
//   generation 32 | attach state 8 | reader state 8 | policy 8 | evictions 8
import { layout } from "./layout.ts";
import { highHalf, lowHalf, type Memory, word } from "./memory.ts";

const at = layout.sequencer;

/** The place in each list is the number; bytes that mean nothing read as the harmless state. */
export const attachStates = ["free", "joining", "live", "departed"] as const;
export const readerStates = ["none", "joining", "live", "evicted"] as const;
export const policies = ["block", "pinned", "lossy", "evict"] as const;

export type AttachState = (typeof attachStates)[number];
export type ReaderState = (typeof readerStates)[number];
export type Policy = (typeof policies)[number];

/** The fields of a member word. */
export interface MemberWord {
  /** Counts the owners of the id. */
  readonly generation: number;
  readonly attach: AttachState;
  /** Whether the id's cursor counts for the gate. */
  readonly reader: ReaderState;
  readonly policy: Policy;
  readonly evictions: number;
}

export interface Member extends MemberWord {
  /** The word that the fields were read from. */
  readonly word: bigint;
  /** Stamp below which its cursor never counts. */
  readonly floor: number;
  /** Milliseconds that a full ring waits for it. */
  readonly deadline: number;
  /** The lag at which it is evicted, in slots; 0 for none. */
  readonly maxLag: number;
  readonly address: bigint;
}

export function encodeMemberWord(fields: MemberWord): bigint {
  const states =
    (attachStates.indexOf(fields.attach) << 24) |
    (readerStates.indexOf(fields.reader) << 16) |
    (policies.indexOf(fields.policy) << 8) |
    fields.evictions;
  return word(fields.generation, states >>> 0);
}

export function decodeMemberWord(value: bigint): MemberWord {
  const low = lowHalf(value);
  return {
    generation: highHalf(value),
    attach: attachStates[low >>> 24] ?? "departed",
    reader: readerStates[(low >>> 16) & 0xff] ?? "evicted",
    policy: policies[(low >>> 8) & 0xff] ?? "block",
    evictions: low & 0xff,
  };
}

/** Whether its cursor or its floor holds the gate. */
export function counts(member: MemberWord): boolean {
  return member.reader === "joining" || member.reader === "live";
}

const live = attachStates.indexOf("live");

export class Members {
  readonly #memory: Memory;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  #entry(id: number): number {
    return at.members + (id % layout.maxAttachments) * at.memberBytes;
  }

  word(id: number): bigint {
    return this.#memory.load(this.#entry(id) + at.memberWord);
  }

  /** Whether `id` is attached in that generation, without a BigInt: the low half first, for generations only rise. */
  isLive(id: number, generation: number): boolean {
    const index = (this.#entry(id) + at.memberWord) / 4;
    const states = Atomics.load(this.#memory.u32, index);
    return Atomics.load(this.#memory.u32, index + 1) === generation && states >>> 24 === live;
  }

  /** The whole entry, the state word first. */
  read(id: number): Member {
    const entry = this.#entry(id);
    const value = this.word(id);
    return {
      ...decodeMemberWord(value),
      word: value,
      floor: Number(this.#memory.load(entry + at.memberFloor)),
      deadline: Number(this.#memory.load(entry + at.memberDeadline)),
      maxLag: Number(this.#memory.load(entry + at.memberMaxLag)),
      address: this.#memory.load(entry + at.memberAddress),
    };
  }

  /** Replaces the state word if it is still `current`. */
  exchange(id: number, current: bigint, next: bigint): boolean {
    return this.#memory.compareExchange(this.#entry(id) + at.memberWord, current, next) === current;
  }

  /** Changes fields of the state word, whatever the others are; gives the word before. */
  change(id: number, step: (member: MemberWord) => Partial<MemberWord> | undefined): MemberWord {
    for (;;) {
      const current = this.word(id);
      const fields = decodeMemberWord(current);
      const changes = step(fields);
      if (changes === undefined || this.exchange(id, current, encodeMemberWord({ ...fields, ...changes }))) {
        return fields;
      }
    }
  }

  /** Stores what is decided of a reader before it counts. */
  setReader(id: number, floor: number, deadline: number, maxLag: number): void {
    const entry = this.#entry(id);
    this.#memory.store(entry + at.memberFloor, floor);
    this.#memory.store(entry + at.memberDeadline, deadline);
    this.#memory.store(entry + at.memberMaxLag, maxLag);
  }

  setAddress(id: number, address: bigint): void {
    this.#memory.store(this.#entry(id) + at.memberAddress, address);
  }

  /** One more than the highest id ever used. */
  get high(): number {
    return Math.min(this.#memory.loadRising(at.high), layout.maxAttachments);
  }

  /** Raises {@link Members.high} to cover `id`. */
  cover(id: number): void {
    this.#memory.raise(at.high, id + 1);
  }
}
