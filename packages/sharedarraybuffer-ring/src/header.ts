// The header of a frame, as a value: written whole by its sender, read once by everyone else.
import { layout } from "./layout.ts";
import { highHalf, lowHalf, type Memory, word } from "./memory.ts";

const at = layout.header;

/** What a header stands for; the place in the list is its number. */
export const headerKinds = ["loaned", "message", "transaction", "control", "padding"] as const;
export type HeaderKind = (typeof headerKinds)[number];

/** A header without its stamp. */
export interface Header {
  /** Counts the loans of its lane. */
  readonly serial: bigint;
  /** Start of the payload in the ring, counted without wrapping. */
  readonly position: bigint;
  readonly length: number;
  /** How many file descriptors travel with the message. */
  readonly descriptors: number;
  readonly bucket: number;
  readonly kind: HeaderKind;
  readonly flags: number;
  /** Destination address; for a transaction, the number of destinations. */
  readonly destination: bigint;
  /** Nanoseconds of the monotonic clock. */
  readonly time: bigint;
  /** The sender's own word. */
  readonly topic: bigint;
  /** Messages in the batch, in its first header. */
  readonly batchCount: number;
  readonly batchIndex: number;
  /** What the loan holds of the ring, in 64-byte units. */
  readonly span: number;
}

/** A header's words behind the stamp as they are read by {@link readHeader}: the low half of word n at 2n, the high one behind. */
export type RawHeader = [
  serial: number,
  serialHigh: number,
  position: number,
  positionHigh: number,
  length: number,
  shape: number,
  destination: number,
  destinationHigh: number,
  time: number,
  timeHigh: number,
  topic: number,
  topicHigh: number,
  batch: number,
  span: number,
];

/** Reads the words behind the stamp of the header at `entry`, each once. */
export function readHeader(memory: Memory, entry: number): RawHeader {
  const { u32 } = memory;
  const first = (entry + at.serial) / 4;
  return [
    Atomics.load(u32, first),
    Atomics.load(u32, first + 1),
    Atomics.load(u32, first + 2),
    Atomics.load(u32, first + 3),
    Atomics.load(u32, first + 4),
    Atomics.load(u32, first + 5),
    Atomics.load(u32, first + 6),
    Atomics.load(u32, first + 7),
    Atomics.load(u32, first + 8),
    Atomics.load(u32, first + 9),
    Atomics.load(u32, first + 10),
    Atomics.load(u32, first + 11),
    Atomics.load(u32, first + 12),
    Atomics.load(u32, first + 13),
  ];
}

/** The number of the kind in the high half of a shape word. */
export function kindIn(shape: number): number {
  return (shape >>> 16) & 0xff;
}

export function bucketInShape(shape: number): number {
  return (shape >>> 8) & 0xff;
}

export function flagsIn(shape: number): number {
  return shape >>> 24;
}

/** The high half of a shape word. */
export function shapeHigh(descriptors: number, bucket: number, kind: number, flags: number): number {
  return ((flags << 24) | (kind << 16) | (bucket << 8) | descriptors) >>> 0;
}

/** What a header says, or nothing if its kind is none that exists. */
export function decodeHeader(raw: RawHeader): Header | undefined {
  const kind = headerKinds[kindIn(raw[5])];
  if (kind === undefined) return undefined;
  return {
    serial: word(raw[1], raw[0]),
    position: word(raw[3], raw[2]),
    length: raw[4],
    descriptors: raw[5] & 0xff,
    bucket: bucketInShape(raw[5]),
    kind,
    flags: flagsIn(raw[5]),
    destination: word(raw[7], raw[6]),
    time: word(raw[9], raw[8]),
    topic: word(raw[11], raw[10]),
    batchCount: raw[12] & 0xffff,
    batchIndex: raw[12] >>> 16,
    span: raw[13],
  };
}

/** The words behind the stamp. */
export function encodeHeader(header: Header): RawHeader {
  const pair = (value: bigint): [number, number] => [lowHalf(value), highHalf(value)];
  return [
    ...pair(header.serial),
    ...pair(header.position),
    header.length >>> 0,
    shapeHigh(header.descriptors, header.bucket, headerKinds.indexOf(header.kind), header.flags),
    ...pair(header.destination),
    ...pair(header.time),
    ...pair(header.topic),
    ((header.batchIndex << 16) | header.batchCount) >>> 0,
    header.span >>> 0,
  ];
}

/** Writes everything but the stamp. Nobody else looks at it until a slot names it. */
export function writeHeader(own: Memory, entry: number, raw: RawHeader): void {
  own.u32.set(raw, (entry + at.serial) / 4);
}
