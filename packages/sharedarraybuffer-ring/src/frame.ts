import { type Geometry, type LaneKind, reclaimedOffset } from "./geometry.ts";
import { decodeHeader, type Header, headerKinds, kindIn, type RawHeader } from "./header.ts";
import { fence, type Memory, word } from "./memory.ts";

/** A sender's payload memory, as a reader has it mapped. */
export interface Sender {
  readonly memory: Memory;
  /** Checked when it was mapped. */
  readonly geometry: Geometry;
}

/**
 * A frame that passed every check.
 *
 * Its bytes are a view on its sender's memory. They are valid for a **lease**: as long as the cursor of the reader that got
 * them does not move past its stamp. Afterwards the view shows whatever the sender writes there next.
 */
export class Frame {
  readonly step = "frame";
  /** Its place in the order; a batch has one for all its messages. */
  readonly stamp: number;
  /** Place in the batch, 0 for a single message. */
  readonly index: number;
  /** Id of its sender. Only the sender can write its memory, so nobody else can have put it there. */
  readonly sender: number;
  /** Lane of its sender. */
  readonly lane: LaneKind;
  /** Offset of its payload in the sender's memory, and its bytes there, with a transaction's destinations. */
  readonly offset: number;
  readonly length: number;
  readonly #raw: RawHeader;
  readonly #from: Sender;
  #payload: Uint8Array | undefined;

  constructor(
    stamp: number,
    index: number,
    sender: number,
    lane: LaneKind,
    offset: number,
    raw: RawHeader,
    from: Sender,
  ) {
    this.stamp = stamp;
    this.index = index;
    this.sender = sender;
    this.lane = lane;
    this.offset = offset;
    this.length = raw[4];
    this.#raw = raw;
    this.#from = from;
  }

  get kind(): "message" | "transaction" | "control" {
    return headerKinds[kindIn(this.#raw[5])] as "message" | "transaction" | "control";
  }

  /** Its header, copied when it was checked. */
  get header(): Header {
    return decodeHeader(this.#raw)!;
  }

  /** Messages in the batch, in its first frame; 1 for a single message. */
  get batchCount(): number {
    return this.#raw[12] & 0xffff;
  }

  /** Counts the loans of its lane. */
  get serial(): number {
    return this.#raw[0] + this.#raw[1] * 2 ** 32;
  }

  /** The sender's own word. */
  get topic(): bigint {
    return word(this.#raw[11], this.#raw[10]);
  }

  /** When it was published, in nanoseconds of the monotonic clock. */
  get time(): bigint {
    return word(this.#raw[9], this.#raw[8]);
  }

  /** Where a message goes, or how many destinations a transaction has. */
  get destination(): bigint {
    return word(this.#raw[7], this.#raw[6]);
  }

  /** Where it goes. A transaction's destinations are bytes of its payload: valid for the lease. */
  get destinations(): bigint[] {
    if (this.kind !== "transaction") return [this.destination];
    const bytes = this.payload;
    const view = new DataView(bytes.buffer, bytes.byteOffset, 8 * this.#raw[6]);
    return Array.from({ length: this.#raw[6] }, (_, i) => view.getBigUint64(8 * i, true));
  }

  /** Everything behind the header: a transaction's destinations, and the data. */
  get payload(): Uint8Array {
    return (this.#payload ??= this.#view());
  }

  /** What the sender sent. */
  get data(): Uint8Array {
    return this.kind === "transaction" ? this.payload.subarray(8 * this.#raw[6]) : this.payload;
  }

  /** Whether {@link Frame.payload} is a copy: of a payload that runs over the end of a ring which stands there once only. */
  get copied(): boolean {
    return this.offset + this.length > this.#from.memory.byteLength;
  }

  /** The data, to keep. Ask {@link Frame.intact} afterwards if the reader is lossy. */
  copy(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.data);
  }

  /**
   * Whether the bytes that were read before this call had not been overwritten. For a reader that counts and was not evicted
   * it is always so.
   */
  intact(): boolean {
    // SYNC reclaim: the bytes before the watermark.
    fence();
    return this.serial >= this.#from.memory.loadRising(reclaimedOffset(this.lane));
  }

  #view(): Uint8Array {
    const { bytes } = this.#from.memory;
    const end = this.offset + this.length;
    if (end <= bytes.length) return bytes.subarray(this.offset, end);
    // Only a ring position can run over the end, where the ring stands last and once.
    const copy = new Uint8Array(this.length);
    const start = this.#from.geometry.headBytes;
    copy.set(bytes.subarray(this.offset));
    copy.set(bytes.subarray(start, start + end - bytes.length), bytes.length - this.offset);
    return copy;
  }
}
