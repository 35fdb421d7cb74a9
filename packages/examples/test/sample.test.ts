import assert from "node:assert/strict";
import {
  SampleFormatError,
  decodeSample,
  encodeSample,
  monotonicMicroseconds,
  sampleByteLength,
  sampleHeaderBytes,
} from "../src/telemetry/sample.ts";

const values = Float64Array.of(1, -2.5, 2 ** 53 - 1, Number.MAX_VALUE);

function encoded(): Uint8Array {
  const bytes = new Uint8Array(sampleByteLength(values.length));
  encodeSample(bytes, 7, 123_456.75, values);
  return bytes;
}

describe("telemetry sample format", () => {
  it("comes back as it was", () => {
    const sample = decodeSample(encoded());
    assert.equal(sample.sequence, 7);
    assert.equal(sample.sentAtMicroseconds, 123_456.75);
    assert.deepEqual(sample.values, values);
  });

  it("is laid out as documented", () => {
    const bytes = encoded();
    const view = new DataView(bytes.buffer);
    assert.equal(bytes.length, 24 + 4 * 8);
    assert.equal(view.getUint32(0, true), 1);
    assert.equal(view.getUint32(4, true), 4);
    assert.equal(view.getFloat64(8, true), 123_456.75);
    assert.equal(view.getUint32(16, true), decodeSample(bytes).checksum);
    assert.equal(view.getUint32(20, true), 7);
    assert.equal(view.getFloat64(32, true), -2.5);
  });

  it("can be anywhere in a buffer and hold a part of an array", () => {
    const target = new Uint8Array(200).fill(0xaa);
    const length = encodeSample(target.subarray(3), 0xffff_ffff, 0, values, 2);
    assert.equal(length, sampleByteLength(2));
    assert.equal(target[2], 0xaa);
    assert.equal(target[3 + length], 0xaa);
    const into = new Float64Array(10);
    const sample = decodeSample(target.subarray(3, 3 + length), into);
    assert.equal(sample.sequence, 0xffff_ffff);
    assert.deepEqual([...sample.values], [1, -2.5]);
    assert.equal(sample.values.buffer, into.buffer);
  });

  it("can be without values and in shared memory", () => {
    const bytes = new Uint8Array(new SharedArrayBuffer(sampleHeaderBytes));
    encodeSample(bytes, 1, 2, new Float64Array(0));
    assert.equal(decodeSample(bytes).values.length, 0);
  });

  it("notices any flipped bit", () => {
    const bytes = encoded();
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const damaged = Uint8Array.from(bytes);
      const index = bit >> 3;
      damaged[index] = (damaged[index] ?? 0) ^ (1 << (bit & 7));
      assert.throws(() => decodeSample(damaged), SampleFormatError);
    }
  });

  it("says what is wrong", () => {
    const bytes = encoded();
    const message = (damage: Uint8Array): string => {
      try {
        decodeSample(damage);
      } catch (error) {
        assert.ok(error instanceof SampleFormatError);
        assert.equal(error.name, "SampleFormatError");
        return error.message;
      }
      return assert.fail("no error");
    };
    assert.equal(message(bytes.subarray(0, 23)), "A sample has at least 24 bytes, this one has 23.");
    assert.equal(message(bytes.subarray(0, 48)), "A sample of 4 values has 56 bytes, this one has 48.");
    assert.equal(
      message(Uint8Array.of(2, ...bytes.subarray(1))),
      "The sample's format version is 2, only 1 can be read.",
    );
    assert.match(
      message(Uint8Array.of(...bytes.subarray(0, 55), 1)),
      /^The sample's checksum is [0-9a-f]{8}, its bytes give [0-9a-f]{8}\.$/,
    );
  });

  it("refuses targets and arrays that are too short", () => {
    assert.throws(() => encodeSample(new Uint8Array(31), 0, 0, values, 1), {
      name: "RangeError",
      message: "A sample of 1 values takes 32 bytes, the target has 31.",
    });
    assert.throws(() => encodeSample(new Uint8Array(99), 0, 0, values, 5), RangeError);
    assert.throws(() => decodeSample(encoded(), new Float64Array(3)), RangeError);
  });

  it("has a clock that does not go back", () => {
    const first = monotonicMicroseconds();
    assert.ok(monotonicMicroseconds() >= first);
  });
});
