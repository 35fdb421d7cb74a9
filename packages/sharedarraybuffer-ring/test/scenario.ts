// Runs the scenarios of the test vectors: the same steps as the Rust crate's test, on the same sizes, with the same memory
// afterwards. A step that `gives` something is compared with what happened.
import {
  BucketSet,
  type Frame,
  Geometry,
  Lane,
  type LaneKind,
  layout,
  Memory,
  type Outgoing,
  type Policy,
  Reader,
  type ReaderState,
  RingError,
  Sequencer,
  sequencerBytes,
  type SleepKind,
  type Space,
  type WouldBlock,
} from "../src/index.ts";

type Hex = `0x${string}`;

interface FrameStep {
  loan: string;
  kind: "message" | "transaction" | "control";
  destinations: Hex[];
  topic: Hex;
  time: Hex;
  descriptors: number;
  length: number;
}

type FullGives = { full: WouldBlock["shortage"]; stamp: number; holder: [number, number] | null };

export type Step = { gives?: unknown } & (
  | {
      do: "member";
      id: number;
      floor: number;
      deadline: number;
      maxLag: number;
      reader: ReaderState;
      policy: Policy;
    }
  | { do: "detach"; id: number }
  | { do: "watch"; id: number; buckets: number[] }
  | { do: "cursor"; id: number; stamp: number }
  | { do: "sleep"; id: number; kind: SleepKind; buckets: number[] }
  | { do: "loan"; id: number; lane: LaneKind; length: number; as: string }
  | { do: "write"; id: number; loan: string; at: number; seed: number; length: number }
  | { do: "address"; id: number; loan: string; destinations: Hex[] }
  | { do: "publish"; id: number; lane: LaneKind; frames: FrameStep[] }
  /** Loan, write and publish in one, of zeros but for the first 64 bytes. Gives stamp and wake. */
  | { do: "send"; id: number; lane?: LaneKind; length: number; to: Hex[]; time: number }
  | { do: "abandon"; id: number; lane: LaneKind; loan: string }
  | { do: "reader"; id: number; position: number; buckets: number[] }
  | { do: "skip"; id: number; limit: number }
  | { do: "read"; id: number }
  | { do: "poke"; memory: number | "sequencer"; offset: number; word: Hex }
);

/** The nonzero words of a memory by their offset. */
export type Words = Record<Hex, Hex>;

export interface Scenario {
  about: string;
  slots: number;
  attachments: number;
  headers: number;
  ringBytes: number;
  steps: Step[];
  sequencer: Words;
  payloads: Words[];
}

export const hex = (value: bigint | number): Hex => `0x${value.toString(16)}`;

/** `length` bytes that tell their seed and their place. */
export function pattern(seed: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => seed * 31 + i * 7 + (i >>> 8));
}

/**
 * The nonzero words of a payload memory, without what means nothing: a header that is lent or padding says so and what it
 * holds of the ring, and nothing else.
 */
export function payloadWordsOf(memory: Memory, headers: number): Words {
  const words = memory.u64.slice();
  const { payload, header } = layout;
  for (let n = 0; n < headers + payload.controlHeaders; n++) {
    const entry = (payload.headers + n * payload.entryBytes) / 8;
    const kind = (words[entry + header.shape / 8]! >> 48n) & 0xffn;
    if (words[entry]! !== 0n || (kind !== 0n && kind !== 4n)) continue;
    for (const at of [header.serial, header.position, header.destination, header.time, header.topic]) {
      words[entry + at / 8] = 0n;
    }
    words[entry + header.shape / 8] = kind << 48n;
    words[entry + header.batch / 8]! &= 0xffff_ffff_0000_0000n;
  }
  return nonzero(words);
}

export function wordsOf(memory: Memory): Words {
  return nonzero(memory.u64);
}

function nonzero(memory: BigUint64Array): Words {
  const words: Words = {};
  memory.forEach((word, i) => {
    if (word !== 0n) words[hex(8 * i)] = hex(word);
  });
  return words;
}

const generation = 1;

export class Machine {
  readonly sequencer: Sequencer;
  readonly memories: Memory[] = [];
  readonly #geometry: Geometry;
  readonly #lanes = new Map<string, Lane>();
  readonly #loans = new Map<string, Space>();
  readonly #readers = new Map<number, Reader>();

  constructor({
    slots,
    attachments,
    headers,
    ringBytes,
  }: Omit<Scenario, "steps" | "sequencer" | "payloads">) {
    this.#geometry = new Geometry(headers, ringBytes);
    const memory = new Memory(new SharedArrayBuffer(sequencerBytes(slots)));
    this.sequencer = Sequencer.create(memory, slots, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210n);
    for (let id = 0; id < attachments; id++) {
      // The ring stands twice in the memory, as in the mapping of a process.
      const own = new Memory(new SharedArrayBuffer(this.#geometry.mappedBytes));
      this.#geometry.store(own);
      this.memories.push(own);
      this.sequencer.members.change(id, () => ({ generation, attach: "live" }));
      this.sequencer.members.setAddress(id, BigInt(id));
      this.sequencer.members.cover(id);
    }
  }

  /** Does a step and gives what the scenario says of it, if it says something. */
  run(step: Step): unknown {
    const { members, sleepers } = this.sequencer;
    switch (step.do) {
      case "member":
        members.setReader(step.id, step.floor, step.deadline, step.maxLag);
        members.change(step.id, () => ({ reader: step.reader, policy: step.policy }));
        return undefined;
      case "detach":
        members.change(step.id, () => ({ attach: "departed", reader: "none" }));
        return undefined;
      case "watch":
        new BucketSet(step.buckets).words.forEach((half, i) => {
          this.#memory(step.id).u32[layout.payload.buckets / 4 + i] = half;
        });
        return undefined;
      case "cursor":
        this.#memory(step.id).store(layout.payload.cursor, step.stamp);
        return undefined;
      case "sleep":
        sleepers.enter(step.id, new BucketSet(step.buckets), step.kind);
        return undefined;
      case "loan": {
        const space = this.#lane(step.id, step.lane).loan(this.sequencer, this.#peers, step.length);
        if (space.status === "would-block") return full(space);
        this.#loans.set(step.as, space);
        return { serial: space.serial, offset: space.offset, capacity: space.capacity };
      }
      case "write":
        this.#memory(step.id).bytes.set(
          pattern(step.seed, step.length),
          this.#loan(step.loan).offset + step.at,
        );
        return undefined;
      case "address":
        step.destinations.forEach((destination, i) => {
          this.#memory(step.id).u64[this.#loan(step.loan).offset / 8 + i] = BigInt(destination);
        });
        return undefined;
      case "publish":
        return this.#publish(step.id, step.lane, step.frames);
      case "send":
        return this.#send(step);
      case "abandon":
        this.#lane(step.id, step.lane).abandon(this.#loan(step.loan));
        return undefined;
      case "reader":
        this.#readers.set(
          step.id,
          new Reader(
            this.sequencer,
            (id) => {
              const memory = this.memories[id];
              return memory && { memory, geometry: this.#geometry };
            },
            step.position,
            step.buckets,
          ),
        );
        return undefined;
      case "skip":
        return this.#reader(step.id).skip(step.limit);
      case "read":
        return this.#read(step.id);
      case "poke":
        (step.memory === "sequencer" ? this.sequencer.memory : this.#memory(step.memory)).store(
          step.offset,
          BigInt(step.word),
        );
        return undefined;
    }
  }

  readonly #peers = (id: number, of: number): Memory | undefined =>
    of === generation ? this.memories[id] : undefined;

  #memory(id: number): Memory {
    return this.memories[id]!;
  }

  #lane(id: number, kind: LaneKind): Lane {
    const key = `${id} ${kind}`;
    let lane = this.#lanes.get(key);
    if (lane === undefined) this.#lanes.set(key, (lane = new Lane(this.#memory(id), this.#geometry, kind)));
    return lane;
  }

  #loan(name: string): Space {
    return this.#loans.get(name)!;
  }

  #reader(id: number): Reader {
    return this.#readers.get(id)!;
  }

  #send({ id, lane = "data", length, to, time }: Step & { do: "send" }): unknown {
    const loan = "sent";
    const loaned = this.run({ do: "loan", id, lane, length, as: loan });
    if (isObject(loaned) && "full" in loaned) return loaned;
    const at = to.length > 1 ? 8 * to.length : 0;
    if (at > 0) this.run({ do: "address", id, loan, destinations: to });
    this.run({ do: "write", id, loan, at, seed: time, length: Math.min(length - at, 64) });
    const kind = lane === "control" ? "control" : at > 0 ? "transaction" : "message";
    const frame: FrameStep = {
      loan,
      kind,
      destinations: to,
      topic: "0x0",
      time: hex(time),
      descriptors: 0,
      length,
    };
    const result = this.#publish(id, lane, [frame]);
    if (isObject(result) && "wake" in result) return [result["stamp"], result["wake"]];
    this.#lane(id, lane).abandon(this.#loan(loan));
    return result;
  }

  #publish(id: number, lane: LaneKind, frames: FrameStep[]): unknown {
    const outgoing = frames.map((frame): Outgoing => ({
      space: this.#loan(frame.loan),
      kind: frame.kind,
      destinations: frame.destinations.map(BigInt),
      topic: BigInt(frame.topic),
      time: BigInt(frame.time),
      descriptors: frame.descriptors,
      length: frame.length,
    }));
    try {
      const owner = { id, generation };
      const result = this.#lane(id, lane).publish(this.sequencer, this.#peers, owner, outgoing);
      if (result.status === "would-block") return full(result);
      return { stamp: result.stamp, wake: result.wake ?? null };
    } catch (error) {
      if (error instanceof RingError && error.code === "ERR_RING_DETACHED") return "detached";
      throw error;
    }
  }

  #read(id: number): unknown {
    const step = this.#reader(id).next();
    if (step.step === "violation") {
      return { violation: step.reason, stamp: step.stamp, sender: step.sender };
    }
    return step.step === "frame" ? described(step) : step.step;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function full(would: WouldBlock): FullGives {
  const { shortage, stamp, holder } = would;
  return { full: shortage, stamp, holder: holder === undefined ? null : [holder.id, holder.cursor] };
}

function described(frame: Frame): unknown {
  const { header } = frame;
  return {
    stamp: frame.stamp,
    index: frame.index,
    sender: frame.sender,
    lane: frame.lane,
    offset: frame.offset,
    intact: frame.intact(),
    serial: hex(header.serial),
    position: hex(header.position),
    length: header.length,
    descriptors: header.descriptors,
    bucket: header.bucket,
    kind: header.kind,
    flags: header.flags,
    destination: hex(header.destination),
    time: hex(header.time),
    topic: hex(header.topic),
    batchCount: header.batchCount,
    batchIndex: header.batchIndex,
    span: header.span,
    payload: [...frame.payload].reduce((sum, byte) => (sum * 31 + byte) % 4_294_967_291, 0),
  };
}
