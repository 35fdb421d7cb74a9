/** What can go wrong, besides a lack of room, which is no error. */
export type RingErrorCode =
  /** Sizes that cannot be, or a memory that does not hold what it says. */
  | "ERR_RING_GEOMETRY"
  /** A memory of another layout version, or none of a ring at all. */
  | "ERR_RING_FORMAT"
  /** A frame that can never fit. */
  | "ERR_RING_TOO_BIG"
  /** The attachment is no longer a live member. */
  | "ERR_RING_DETACHED"
  /** The reader has lost its place: it was evicted. */
  | "ERR_RING_EVICTED"
  /** The order was overwritten by somebody who scribbles. */
  | "ERR_RING_SPOILED"
  /** A call that makes no sense now: a loan used twice, a reader that exists already. */
  | "ERR_RING_STATE";

export class RingError extends Error {
  override readonly name: string = "RingError";
  readonly code: RingErrorCode;

  constructor(code: RingErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
