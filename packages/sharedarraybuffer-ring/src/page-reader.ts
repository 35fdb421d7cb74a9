import { RingError } from "./errors.ts";
import { layout } from "./layout.ts";
import { Memory } from "./memory.ts";

const at = layout.payload;

/** What an attachment counts in its page. Exact up to 2^53. */
export interface Counters {
  /** Messages published, and their payload bytes. */
  readonly published: number;
  readonly publishedBytes: number;
  /** Publishes that found no room. */
  readonly wouldBlock: number;
  /** Messages delivered. */
  readonly delivered: number;
  /** Frames refused by the reader's checks. */
  readonly violations: number;
  /** Stamps that lossy subscriptions have missed. */
  readonly missed: number;
  /** How often it went to sleep. */
  readonly sleeps: number;
}

/** Reads the page of one attachment: its own, or another's. Only loads. */
export class PageReader {
  readonly #memory: Memory;

  /**
   * `buffer` starts with the page at `byteOffset`; what follows does not matter.
   *
   * @throws RingError `ERR_RING_FORMAT` if it is no payload memory of this layout.
   */
  constructor(buffer: ArrayBufferLike, byteOffset = 0) {
    this.#memory = new Memory(buffer, byteOffset, Math.min(layout.page, buffer.byteLength - byteOffset));
    if (this.#memory.byteLength < layout.page || this.#memory.load(at.magic) !== layout.payloadMagic) {
      throw new RingError("ERR_RING_FORMAT", "not a payload memory");
    }
    const version = this.#memory.load(at.version);
    if (version !== BigInt(layout.layoutVersion)) {
      throw new RingError(
        "ERR_RING_FORMAT",
        `layout version ${version}, this build has ${layout.layoutVersion}`,
      );
    }
  }

  /** The oldest stamp that the attachment still needs. */
  get cursor(): number {
    return this.#memory.loadRising(at.cursor);
  }

  /** Each counter is right by itself; together they are of no one moment. */
  get counters(): Counters {
    const memory = this.#memory;
    return {
      published: memory.loadRising(at.published),
      publishedBytes: memory.loadRising(at.publishedBytes),
      wouldBlock: memory.loadRising(at.wouldBlock),
      delivered: memory.loadRising(at.delivered),
      violations: memory.loadRising(at.violations),
      missed: memory.loadRising(at.missed),
      sleeps: memory.loadRising(at.sleepEpoch),
    };
  }
}

/** The counters of the attachment whose payload memory `buffer` is. */
export function readCounters(buffer: ArrayBufferLike): Counters {
  return new PageReader(buffer).counters;
}
