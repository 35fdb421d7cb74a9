/**
 * The bytes of one message of the telemetry bus, little-endian:
 *
 * | at | type | content                                                            |
 * | -- | ---- | ------------------------------------------------------------------ |
 * | 0  | u32  | format version, 1                                                  |
 * | 4  | u32  | how many values follow                                             |
 * | 8  | f64  | when it was sent, microseconds of the monotonic clock              |
 * | 16 | u32  | CRC-32 of all other bytes                                          |
 * | 20 | u32  | the sender's own sequence number; after 2^32-1 comes 0             |
 * | 24 | f64… | the values                                                         |
 */
import { crc32 } from "node:zlib";

/** The format version that is written, and the only one that is read. */
export const sampleFormatVersion = 1;

/** Bytes before the first value. */
export const sampleHeaderBytes = 24;

/** Bytes of a sample with so many values. */
export function sampleByteLength(valueCount: number): number {
  return sampleHeaderBytes + valueCount * Float64Array.BYTES_PER_ELEMENT;
}

/**
 * Microseconds of the monotonic clock (`process.hrtime`), which all processes of one machine
 * share: the difference of two readings is a delay also where they come from two processes.
 */
export function monotonicMicroseconds(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e6 + nanoseconds / 1e3;
}

/** Thrown where bytes are not a sample. */
export class SampleFormatError extends Error {
  override readonly name = "SampleFormatError";
}

/** A sample read back. */
export interface DecodedSample {
  /** The sender's own sequence number, 0 to 2^32-1. */
  readonly sequence: number;
  /** When it was sent, in microseconds of the monotonic clock. */
  readonly sentAtMicroseconds: number;
  /** The CRC-32 of the message, which has been checked. */
  readonly checksum: number;
  readonly values: Float64Array;
}

const checksumAt = 16;
const sequenceAt = 20;

function checksumOf(bytes: Uint8Array): number {
  return crc32(bytes.subarray(sequenceAt), crc32(bytes.subarray(0, checksumAt)));
}

/**
 * Writes a sample to the start of `target`.
 * @param valueCount - how many of `values` to take; all unless told.
 * @returns the number of bytes written, which is `sampleByteLength(valueCount)`.
 * @throws RangeError if `target` is too short.
 */
export function encodeSample(
  target: Uint8Array,
  sequence: number,
  sentAtMicroseconds: number,
  values: Float64Array,
  valueCount: number = values.length,
): number {
  const byteLength = sampleByteLength(valueCount);
  if (valueCount > values.length) {
    throw new RangeError(`There are ${values.length} values, not ${valueCount}.`);
  }
  if (target.byteLength < byteLength) {
    throw new RangeError(
      `A sample of ${valueCount} values takes ${byteLength} bytes, the target has ${target.byteLength}.`,
    );
  }
  const view = new DataView(target.buffer, target.byteOffset, byteLength);
  view.setUint32(0, sampleFormatVersion, true);
  view.setUint32(4, valueCount, true);
  view.setFloat64(8, sentAtMicroseconds, true);
  view.setUint32(sequenceAt, sequence, true);
  for (let index = 0; index < valueCount; index += 1) {
    view.setFloat64(sampleHeaderBytes + index * 8, values[index] ?? 0, true);
  }
  view.setUint32(checksumAt, checksumOf(target.subarray(0, byteLength)), true);
  return byteLength;
}

/**
 * Reads a sample and checks it.
 * @param bytes - exactly the bytes of one sample.
 * @param into - an array for the values, to be used again for each sample; a new one unless
 *   told. The result's `values` is then a part of it.
 * @throws SampleFormatError if the length, the version or the checksum is wrong.
 */
export function decodeSample(bytes: Uint8Array, into?: Float64Array): DecodedSample {
  if (bytes.byteLength < sampleHeaderBytes) {
    throw new SampleFormatError(
      `A sample has at least ${sampleHeaderBytes} bytes, this one has ${bytes.byteLength}.`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint32(0, true);
  if (version !== sampleFormatVersion) {
    throw new SampleFormatError(
      `The sample's format version is ${version}, only ${sampleFormatVersion} can be read.`,
    );
  }
  const valueCount = view.getUint32(4, true);
  const byteLength = sampleByteLength(valueCount);
  if (bytes.byteLength !== byteLength) {
    throw new SampleFormatError(
      `A sample of ${valueCount} values has ${byteLength} bytes, this one has ${bytes.byteLength}.`,
    );
  }
  const checksum = view.getUint32(checksumAt, true);
  const computed = checksumOf(bytes);
  if (checksum !== computed) {
    throw new SampleFormatError(
      `The sample's checksum is ${hex(checksum)}, its bytes give ${hex(computed)}.`,
    );
  }
  if (into !== undefined && into.length < valueCount) {
    throw new RangeError(`The sample has ${valueCount} values, the array for them ${into.length}.`);
  }
  const values = into === undefined ? new Float64Array(valueCount) : into.subarray(0, valueCount);
  for (let index = 0; index < valueCount; index += 1) {
    values[index] = view.getFloat64(sampleHeaderBytes + index * 8, true);
  }
  return {
    sequence: view.getUint32(sequenceAt, true),
    sentAtMicroseconds: view.getFloat64(8, true),
    checksum,
    values,
  };
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}
