import assert from "node:assert/strict";

import { type Range, type Report, measure, rangeOf } from "../src/bench/driver.ts";
import type { Machine } from "../src/bench/machine.ts";
import { buildNative, measureNative, numberOf } from "../src/bench/native.ts";
import { parseOptions } from "../src/bench/options.ts";
import { plan } from "../src/bench/plan.ts";
import { rateText, reportText, tableText, timeText } from "../src/bench/report.ts";

const machine: Machine = {
  cpu: "Test",
  cores: 2,
  kernel: "6.0",
  node: "v20",
  load: 0.25,
  used: 0,
  busy: false,
};

function assertRange(range: Range, what: string): void {
  const { min, median, max } = range;
  assert.ok(
    min > 0 && min <= median && median <= max && Number.isFinite(max),
    `${what}: ${JSON.stringify(range)}`,
  );
}

describe("bench", () => {
  describe("flags", () => {
    it("measures longer unless told to be quick", () => {
      const [quick, full] = [parseOptions(["--quick", "--json"]), parseOptions([])];
      assert.deepEqual([quick.quick, quick.json, full.quick, full.json], [true, true, false, false]);
      assert.ok(quick.settings.repeats >= 3 && full.settings.repeats >= 5);
      assert.ok(quick.settings.milliseconds < full.settings.milliseconds);
    });

    it("refuses what it does not know", () => {
      for (const args of [["--fast"], ["quick"], ["--json=1"]]) {
        assert.throws(() => parseOptions(args), TypeError, args.join(" "));
      }
    });
  });

  describe("text", () => {
    it("gives the median and the ends", () => {
      assert.deepEqual(rangeOf([3, 1, 2]), { median: 2, min: 1, max: 3 });
      assert.deepEqual(rangeOf([4, 1, 2, 3]), { median: 2.5, min: 1, max: 4 });
    });

    it("picks units", () => {
      assert.deepEqual([timeText(93.91), timeText(1560), timeText(2.5e6)], ["93.9 ns", "1.56 µs", "2.50 ms"]);
      assert.equal(rateText(7_730_000), "7.73 M/s");
    });

    it("aligns columns", () => {
      assert.equal(
        tableText([
          ["a", "b"],
          ["long", "1"],
          ["x", "22"],
        ]),
        "a      b\nlong   1\nx     22",
      );
    });
  });

  describe("measurements", function () {
    // The native program may have to be built first.
    this.timeout(300_000);
    let native: string;
    let report: Report;

    before(async () => {
      native = await buildNative("dev");
      const settings = { repeats: 2, milliseconds: 10, warmUpMilliseconds: 5 };
      report = await measure(plan, { native, settings }, machine, () => {});
    });

    it("covers the floors and the figures that stand on them", () => {
      assert.deepEqual(
        report.floors.map((floor) => floor.id),
        ["cache-line", "futex-wake", "fetch-add"],
      );
      for (const floor of report.floors) assertRange(floor.ns, floor.id);
      const ids = report.figures.map((figure) => figure.id);
      assert.equal(new Set(ids).size, ids.length);
      for (const id of ["p1-rust", "p1-javascript", "p3-rust-4-4-batch-1", "p3-javascript-1-4-batch-32"]) {
        assert.ok(ids.includes(id), id);
      }
    });

    it("gives every figure as a range and as a multiple of its floor", () => {
      for (const figure of report.figures) {
        const { id, kind, ns, ns99, ns999, multiple, messagesPerSecond } = figure;
        assertRange(ns, id);
        assertRange(multiple, id);
        assert.ok(
          report.floors.some((floor) => floor.id === figure.floor),
          id,
        );
        if (kind === "latency") {
          assert.ok(ns99 !== undefined && ns999 !== undefined, id);
          assert.ok(ns99.max >= ns.min && ns999.max >= ns99.min, id);
        } else {
          assert.ok(messagesPerSecond !== undefined && figure.batch !== undefined, id);
          assertRange(messagesPerSecond, id);
        }
        assert.ok(Number.isFinite(figure.cpuMicrosPerMessage.median), id);
      }
    });

    it("loses nothing", () => {
      for (const { id, lost } of report.figures) assert.equal(lost, 0, id);
    });

    it("survives JSON and reads well", () => {
      assert.deepEqual(JSON.parse(JSON.stringify(report)), report);
      const text = reportText(report);
      for (const { title } of [...report.floors, ...report.figures]) assert.ok(text.includes(title), title);
      assert.ok(!/NaN|undefined|Infinity/.test(text), text);
    });

    it("counts what each reader got", async () => {
      const args = [
        "throughput",
        "--publishers",
        2,
        "--readers",
        2,
        "--batch",
        7,
        "--ms",
        10,
        "--warm-up-ms",
        5,
      ];
      const answer = await measureNative(native, args);
      const published = numberOf(answer, "published");
      assert.ok(published > 0);
      assert.deepEqual(answer["delivered"], [published, published]);
      assert.deepEqual([answer["lost"], answer["wrong"]], [0, 0]);
    });

    it("says what is wrong with a measurement", async () => {
      await assert.rejects(measureNative(native, ["throughput", "--readers", 0]), /ended with 1/);
    });
  });
});
