// The sizes of a payload memory: checked by name before anything is computed from them.
import { RingError } from "./errors.ts";
import { layout, nextMultiple } from "./layout.ts";
import type { Memory } from "./memory.ts";

const at = layout.payload;

/** Which part of an attachment's headers: messages, or records of the bus itself. */
export type LaneKind = "data" | "control";

/** Where the watermark of a lane stands in its owner's page. */
export function reclaimedOffset(kind: LaneKind): number {
  return kind === "data" ? at.reclaimed : at.reclaimedControl;
}

function isPowerOfTwo(value: number, low: number, high: number): boolean {
  return value >= low && value <= high && Number.isInteger(Math.log2(value));
}

/** How one attachment's payload memory is divided. A value of this type is always sound. */
export class Geometry {
  static readonly minHeaders: number = 64;
  /** With the control lane's the index has to fit 16 bits. */
  static readonly maxHeaders: number = 2 ** 15;
  static readonly minRingBytes: number = 2 ** 16;
  static readonly maxRingBytes: number = 2 ** 33;

  /** Headers of the data lane. */
  readonly headerCount: number;
  /** Bytes of the payload ring. */
  readonly ringBytes: number;
  /** Bytes in front of the payload ring: page, header array, control cells. */
  readonly headBytes: number;
  readonly #cells: number;

  constructor(headerCount: number, ringBytes: number) {
    if (!isPowerOfTwo(headerCount, Geometry.minHeaders, Geometry.maxHeaders)) {
      throw new RingError(
        "ERR_RING_GEOMETRY",
        `headers must be a power of two from ${Geometry.minHeaders} to ${Geometry.maxHeaders}, not ${headerCount}`,
      );
    }
    if (!isPowerOfTwo(ringBytes, Geometry.minRingBytes, Geometry.maxRingBytes)) {
      throw new RingError(
        "ERR_RING_GEOMETRY",
        `ringBytes must be a power of two from ${Geometry.minRingBytes} to ${Geometry.maxRingBytes}, not ${ringBytes}`,
      );
    }
    this.headerCount = headerCount;
    this.ringBytes = ringBytes;
    this.#cells = at.headers + (headerCount + at.controlHeaders) * at.entryBytes;
    this.headBytes = nextMultiple(this.#cells + at.controlHeaders * at.cellBytes, layout.page);
  }

  /** Writes magic, version and sizes into a fresh payload memory. */
  store(own: Memory): void {
    own.store(at.version, layout.layoutVersion);
    own.store(at.headerCount, this.headerCount);
    own.store(at.ringBytes, this.ringBytes);
    own.store(at.magic, layout.payloadMagic);
  }

  /** Reads what a payload memory says of itself, each word once, and compares it with the `bytes` that there are. */
  static load(page: Memory, bytes: number): Geometry {
    const magic = page.load(at.magic);
    if (magic !== layout.payloadMagic) {
      throw new RingError("ERR_RING_FORMAT", `not a payload memory: magic 0x${magic.toString(16)}`);
    }
    const version = page.load(at.version);
    if (version !== BigInt(layout.layoutVersion)) {
      throw new RingError(
        "ERR_RING_FORMAT",
        `layout version ${version}, this build has ${layout.layoutVersion}`,
      );
    }
    const geometry = new Geometry(Number(page.load(at.headerCount)), Number(page.load(at.ringBytes)));
    if (bytes !== geometry.memoryBytes && bytes !== geometry.mappedBytes) {
      throw new RingError(
        "ERR_RING_GEOMETRY",
        `a payload memory of ${bytes} bytes where ${geometry.memoryBytes} are needed`,
      );
    }
    return geometry;
  }

  /** The largest frame: a quarter of the ring, so that one loan never needs all of it. */
  get maxFrame(): number {
    return this.ringBytes / 4;
  }

  /** Bytes of the memory. */
  get memoryBytes(): number {
    return this.headBytes + this.ringBytes;
  }

  /** Bytes of a mapping in which the ring stands twice, back to back. */
  get mappedBytes(): number {
    return this.headBytes + 2 * this.ringBytes;
  }

  /** Offset of an entry, or nothing if there is no such header. */
  entry(index: number): number | undefined {
    return index < this.headerCount + at.controlHeaders ? at.headers + index * at.entryBytes : undefined;
  }

  laneOf(index: number): LaneKind {
    return index < this.headerCount ? "data" : "control";
  }

  /** First header of a lane. */
  laneBase(kind: LaneKind): number {
    return kind === "data" ? 0 : this.headerCount;
  }

  /** Number of headers of a lane: a power of two. */
  laneCount(kind: LaneKind): number {
    return kind === "data" ? this.headerCount : at.controlHeaders;
  }

  /** Offset of the cell of control header `n`. */
  cell(n: number): number {
    return this.#cells + (n % at.controlHeaders) * at.cellBytes;
  }

  /** Offset of a ring position, given by the halves of its word: always inside the ring. */
  ringOffset(high: number, low: number): number {
    return this.headBytes + (((high % 2) * 2 ** 32 + low) % this.ringBytes);
  }
}
