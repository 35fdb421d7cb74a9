import assert from "node:assert/strict";
import {
  LatencyHistogram,
  OrderChecker,
  RateMeter,
  SequenceDigest,
  compareDigests,
} from "../src/telemetry/statistics.ts";
import type { SequenceDigestOptions } from "../src/telemetry/statistics.ts";

describe("telemetry statistics", () => {
  describe("latency", () => {
    const near = (actual: number, expected: number): void => {
      assert.ok(Math.abs(actual - expected) <= expected / 500, `${actual} is not about ${expected}`);
    };

    it("is all 0 at first", () => {
      assert.deepEqual(new LatencyHistogram().summary(), { p50: 0, p99: 0, p999: 0, max: 0 });
    });

    it("gives percentiles in microseconds", () => {
      const histogram = new LatencyHistogram();
      for (let value = 1; value <= 10_000; value += 1) histogram.record(value / 10);
      const { p50, p99, p999, max } = histogram.summary();
      near(p50, 500);
      near(p99, 990);
      near(p999, 999);
      near(max, 1000);
      assert.equal(histogram.count, 10_000);
    });

    it("takes latencies that are out of its range", () => {
      const histogram = new LatencyHistogram();
      histogram.record(-3);
      histogram.record(0);
      assert.equal(histogram.summary().max, 0.001);
      histogram.record(1e12);
      near(histogram.summary().max, 6e7);
      assert.equal(histogram.count, 3);
    });

    it("can be merged and reset", () => {
      const a = new LatencyHistogram();
      const b = new LatencyHistogram();
      a.record(10);
      b.record(1000);
      a.merge(b);
      a.merge(new LatencyHistogram());
      assert.equal(a.count, 2);
      near(a.summary().max, 1000);
      a.reset();
      assert.equal(a.count, 0);
      assert.equal(b.count, 1);
    });
  });

  describe("rates", () => {
    it("are taken over the time since the start, at first", () => {
      const meter = new RateMeter(7_000_000);
      assert.equal(meter.perSecond(7_000_000), 0);
      meter.add(7_100_000, 50);
      assert.equal(meter.perSecond(7_500_000), 100);
    });

    it("follow the last second", () => {
      const meter = new RateMeter(0);
      for (let now = 0; now < 5_000_000; now += 1_000) meter.add(now);
      assert.ok(Math.abs(meter.perSecond(5_000_000) - 1_000) < 100);
      assert.ok(Math.abs(meter.perSecond(5_500_000) - 500) < 100);
      assert.equal(meter.perSecond(7_000_000), 0);
      meter.add(100_000_000, 20);
      assert.equal(meter.perSecond(100_000_000), 20);
      assert.equal(meter.total, 5_020);
    });
  });

  describe("order", () => {
    it("is fine where stamps grow and sequence numbers have no hole", () => {
      const checker = new OrderChecker();
      assert.ok(checker.observe(10, 1, 0));
      assert.ok(checker.observe(11, 2, 500));
      assert.ok(checker.observe(15, 1, 1));
      assert.ok(checker.observe(16, 2, 501));
      assert.deepEqual(checker.counts(), {
        messages: 4,
        orderViolations: 0,
        gaps: 0,
        missing: 0,
        firstStamp: 10,
        lastStamp: 16,
      });
    });

    it("is broken by a stamp that goes back or is there twice", () => {
      const checker = new OrderChecker();
      checker.observe(10, 1, 0);
      assert.equal(checker.observe(10, 1, 1), false);
      assert.equal(checker.observe(9, 1, 2), false);
      assert.ok(checker.observe(10, 1, 3));
      assert.equal(checker.counts().orderViolations, 2);
    });

    it("counts holes and what is missing in them", () => {
      const checker = new OrderChecker();
      checker.observe(1, 1, 0);
      assert.equal(checker.observe(2, 1, 4), false);
      assert.ok(checker.observe(3, 1, 5));
      // Once more: a gap, but nothing is missing.
      assert.equal(checker.observe(4, 1, 5), false);
      assert.ok(checker.observe(5, 1, 6));
      const { gaps, missing } = checker.counts();
      assert.deepEqual({ gaps, missing }, { gaps: 2, missing: 3 });
    });

    it("goes on with 0 after the last sequence number", () => {
      const checker = new OrderChecker();
      checker.observe(1, 1, 2 ** 32 - 1);
      assert.ok(checker.observe(2, 1, 0));
    });

    it("has no stamps at first", () => {
      const { firstStamp, lastStamp } = new OrderChecker().counts();
      assert.deepEqual([firstStamp, lastStamp], [undefined, undefined]);
    });
  });

  describe("digest", () => {
    type Triple = readonly [stamp: number, sender: number, checksum: number];
    const message = (stamp: number): Triple => [stamp, stamp % 3, (stamp * 2654435761) >>> 0];
    const between = (first: number, last: number): Triple[] =>
      Array.from({ length: last - first + 1 }, (_, index) => message(first + index));
    const digestOf = (triples: readonly Triple[], options: SequenceDigestOptions = {}): SequenceDigest => {
      const digest = new SequenceDigest({ blockSize: 16, ...options });
      for (const triple of triples) digest.observe(...triple);
      return digest;
    };

    it("compares the blocks that both saw whole", () => {
      const a = digestOf(between(5, 200)).snapshot();
      const b = digestOf(between(40, 300)).snapshot();
      assert.deepEqual([a.firstBlock, a.lastBlock], [1, 11]);
      assert.deepEqual([b.firstBlock, b.lastBlock], [3, 17]);
      assert.deepEqual(compareDigests(a, b), {
        comparedBlocks: 9,
        comparedMessages: 144,
        mismatchedBlocks: [],
      });
      assert.deepEqual(compareDigests(b, a), compareDigests(a, b));
    });

    it("survives JSON", () => {
      const snapshot = digestOf(between(0, 99)).snapshot();
      const copy = JSON.parse(JSON.stringify(snapshot)) as typeof snapshot;
      assert.deepEqual(copy, snapshot);
      assert.equal(compareDigests(snapshot, copy).comparedBlocks, 6);
    });

    it("counts a block whose last stamp was seen", () => {
      assert.equal(digestOf(between(0, 30)).snapshot().lastBlock, 0);
      assert.equal(digestOf(between(0, 31)).snapshot().lastBlock, 1);
    });

    it("does not change by being looked at", () => {
      const digest = digestOf(between(0, 31));
      assert.deepEqual(digest.snapshot(), digest.snapshot());
      digest.snapshot(true);
      for (const triple of between(32, 80)) digest.observe(...triple);
      assert.deepEqual(digest.snapshot(), digestOf(between(0, 80)).snapshot());
    });

    it("counts the first and the last block where their ends are known", () => {
      const a = digestOf(between(1, 20), { firstStamp: 0 }).snapshot(true);
      assert.deepEqual([a.firstBlock, a.lastBlock, a.blocks.length], [0, 1, 2]);
      const same = digestOf(between(1, 20), { firstStamp: 0 }).snapshot(true);
      assert.deepEqual(compareDigests(a, same), {
        comparedBlocks: 2,
        comparedMessages: 20,
        mismatchedBlocks: [],
      });
      const shorter = digestOf(between(1, 19), { firstStamp: 0 }).snapshot(true);
      assert.deepEqual(compareDigests(a, shorter).mismatchedBlocks, [1]);
      assert.equal(digestOf(between(40, 50), { firstStamp: 33 }).snapshot().firstBlock, undefined);
    });

    it("has nothing to compare at first and in less than a block", () => {
      const empty = digestOf([]).snapshot();
      assert.deepEqual(empty, { blockSize: 16, firstBlock: undefined, lastBlock: undefined, blocks: [] });
      assert.equal(compareDigests(empty, digestOf(between(0, 99)).snapshot()).comparedBlocks, 0);
      assert.equal(digestOf(between(1, 30)).snapshot().firstBlock, undefined);
    });

    const good = between(0, 63);
    const differences: readonly (readonly [string, readonly Triple[], readonly number[]])[] = [
      ["a message is missing", good.toSpliced(20, 1), [1]],
      ["a whole block is missing", good.toSpliced(16, 16), [1]],
      ["the first message is missing of a block", good.toSpliced(32, 1), [2]],
      ["a message is there twice", good.toSpliced(20, 0, message(20)), [1]],
      ["two messages change places", good.with(20, message(21)).with(21, message(20)), [1]],
      [
        "two messages change places over the end of a block",
        good.with(15, message(16)).with(16, message(15)),
        [0, 1],
      ],
      ["a checksum differs", good.with(40, [40, 1, 12345]), [2]],
      ["a sender differs", good.with(40, [40, 2, message(40)[2]]), [2]],
      ["a sender differs above 32 bits", good.with(40, [40, 1 + 2 ** 32, message(40)[2]]), [2]],
      ["a stamp differs", good.with(40, [41, 1, message(40)[2]]), [2]],
    ];
    for (const [what, other, blocks] of differences) {
      it(`differs where ${what}`, () => {
        const a = digestOf(good).snapshot(true);
        const b = digestOf(other).snapshot(true);
        assert.deepEqual(compareDigests(a, b).mismatchedBlocks, blocks);
        assert.deepEqual(compareDigests(b, a).mismatchedBlocks, blocks);
      });
    }

    it("takes stamps above 32 bits apart", () => {
      const high = 2 ** 40;
      const a = digestOf(between(high, high + 15)).snapshot();
      const b = digestOf(between(0, 15)).snapshot();
      assert.notEqual(a.blocks[0]?.[2], b.blocks[0]?.[2]);
      assert.equal(a.firstBlock, high / 16);
    });

    it("does not collide on small changes", () => {
      const seen = new Set<string>();
      for (let checksum = 0; checksum < 20_000; checksum += 1) {
        seen.add(digestOf([[0, 0, checksum]]).snapshot(true).blocks[0]?.[2] ?? "");
      }
      assert.equal(seen.size, 20_000);
    });

    it("keeps the latest blocks only", () => {
      const few = digestOf(between(0, 16 * 100 - 1), { maximumBlocks: 10 }).snapshot();
      assert.ok(few.blocks.length >= 10 && few.blocks.length <= 20);
      assert.equal(few.lastBlock, 99);
      const all = digestOf(between(0, 16 * 100 - 1)).snapshot();
      assert.deepEqual(compareDigests(all, few), {
        comparedBlocks: few.blocks.length,
        comparedMessages: few.blocks.length * 16,
        mismatchedBlocks: [],
      });
    });

    it("refuses block sizes that are none or differ", () => {
      assert.throws(() => new SequenceDigest({ blockSize: 0 }), RangeError);
      assert.throws(() => compareDigests(new SequenceDigest().snapshot(), digestOf([]).snapshot()), {
        name: "RangeError",
        message: "Blocks of 1024 and of 16 stamps cannot be compared.",
      });
    });
  });
});
