// Access to memory that others may write at any moment: every word is read once into a local, checked, then used.
//
// What others may see in the making goes through Atomics, whose every operation is sequentially consistent, and which are
// the same instructions on an ArrayBuffer over mapped memory as on a SharedArrayBuffer. Two things are not in ECMAScript's
// memory model and are relied upon as V8 does them on x64 and arm64: that the halves of a 64-bit word can be read as
// 32-bit words, and `fence`.
import { layout } from "./layout.ts";
import { RingError } from "./errors.ts";

const halves = new Uint32Array(2);
const whole = new BigUint64Array(halves.buffer);
const barrier = new Int32Array(new SharedArrayBuffer(4));

if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) {
  throw new RingError("ERR_RING_FORMAT", "the layout is little-endian, this machine is not");
}

/** The 64-bit word of two halves. */
export function word(high: number, low: number): bigint {
  halves[0] = low;
  halves[1] = high;
  return whole[0]!;
}

/** The low 32 bits of a word. */
export function lowHalf(value: bigint): number {
  whole[0] = value;
  return halves[0]!;
}

/** The high 32 bits of a word. */
export function highHalf(value: bigint): number {
  whole[0] = value;
  return halves[1]!;
}

/** No memory access moves over it: a store-release, then a load-acquire, which keep their order. */
export function fence(): void {
  Atomics.store(barrier, 0, 0);
  Atomics.load(barrier, 0);
}

/** A part of a buffer: a sequencer memory or a payload memory. */
export class Memory {
  readonly bytes: Uint8Array;
  /** The same bytes as 32-bit words, for the halves of words, and signed, for waits. */
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly u64: BigUint64Array;

  constructor(buffer: ArrayBufferLike, byteOffset = 0, byteLength: number = buffer.byteLength - byteOffset) {
    if (byteOffset % 8 !== 0 || byteLength % 8 !== 0) {
      throw new RingError("ERR_RING_GEOMETRY", "a memory starts and ends at a multiple of 8 bytes");
    }
    this.bytes = new Uint8Array(buffer, byteOffset, byteLength);
    this.u32 = new Uint32Array(buffer, byteOffset, byteLength / 4);
    this.i32 = new Int32Array(buffer, byteOffset, byteLength / 4);
    this.u64 = new BigUint64Array(buffer, byteOffset, byteLength / 8);
  }

  get byteLength(): number {
    return this.bytes.byteLength;
  }

  load(offset: number): bigint {
    return Atomics.load(this.u64, offset / 8);
  }

  store(offset: number, value: bigint | number): void {
    Atomics.store(this.u64, offset / 8, BigInt(value));
  }

  /** Swaps `next` in if the word is `current`; gives what it was. */
  compareExchange(offset: number, current: bigint, next: bigint): bigint {
    return Atomics.compareExchange(this.u64, offset / 8, current, next);
  }

  /**
   * A word that only ever rises, as a number and without a BigInt: where the high half is the same before and after, the
   * low half belongs to it. Beyond 2^53 it is not exact.
   */
  loadRising(offset: number): number {
    const at = offset / 4;
    let high = Atomics.load(this.u32, at + 1);
    for (;;) {
      const low = Atomics.load(this.u32, at);
      const again = Atomics.load(this.u32, at + 1);
      if (again === high) return high * 2 ** 32 + low;
      high = again;
    }
  }

  /**
   * The stamp in the header at `offset`. It rises but for being 0 in between, so a low half of 0 may belong to another
   * high half: then the word is read whole.
   */
  loadStamp(offset: number): number {
    const at = (offset + layout.header.stamp) / 4;
    const high = Atomics.load(this.u32, at + 1);
    const low = Atomics.load(this.u32, at);
    if (low !== 0 && Atomics.load(this.u32, at + 1) === high) return high * 2 ** 32 + low;
    return Number(this.load(offset + layout.header.stamp));
  }

  /** Raises a word to `value` if it is smaller. */
  raise(offset: number, value: number): void {
    if (this.loadRising(offset) >= value) return;
    const next = BigInt(value);
    let current = this.load(offset);
    while (BigInt.asIntN(64, next - current) > 0n) {
      const seen = this.compareExchange(offset, current, next);
      if (seen === current) return;
      current = seen;
    }
  }

  /** Adds to a counter that only this thread writes. */
  count(offset: number, more: number): void {
    const at = offset / 4;
    const low = this.u32[at]! + more;
    if (low < 2 ** 32) Atomics.store(this.u32, at, low);
    else this.store(offset, this.load(offset) + BigInt(more));
  }
}
