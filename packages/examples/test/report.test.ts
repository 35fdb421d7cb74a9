import assert from "node:assert/strict";
import { release } from "node:os";
import { buildReport, exitCodeOf, renderReport } from "../src/telemetry/report.ts";
import type { ReportInput } from "../src/telemetry/report.ts";

const input: ReportInput = {
  elapsedSeconds: 2.00049,
  processes: 5,
  groups: ["cpu", "memory"],
  order: { messages: 4_000, orderViolations: 0, gaps: 0, missing: 0, firstStamp: 0, lastStamp: 3_999 },
  corrupt: 0,
  latency: { p50: 8, p99: 30, p999: 100, max: 900 },
  cpuMicroseconds: { processors: 60_000, recorder: 40_000 },
  publishers: [
    {
      publisher: "processors",
      requestedRateHz: 1_000,
      achievedRateHz: 999.96,
      published: 2_100,
      skippedTicks: 0,
      wouldBlock: 0,
    },
    {
      publisher: "memory",
      requestedRateHz: 1_000,
      achievedRateHz: 900.04,
      published: 1_900,
      skippedTicks: 200,
      wouldBlock: 1,
    },
  ],
  digest: { comparedBlocks: 3, comparedMessages: 3_072, mismatchedBlocks: [] },
  skipped: [{ group: "scheduler", path: "/proc/schedstat", reason: "it is empty" }],
};

describe("telemetry report", () => {
  it("has everything in it and survives JSON", () => {
    const report = buildReport(input);
    assert.deepEqual(JSON.parse(JSON.stringify(report)), {
      elapsedSeconds: 2,
      messages: 4_000,
      messagesPerSecond: 1_999.5,
      processes: 5,
      groups: ["cpu", "memory"],
      firstStamp: 0,
      lastStamp: 3_999,
      orderViolations: 0,
      gaps: 0,
      missing: 0,
      corrupt: 0,
      latencyMicroseconds: { p50: 8, p99: 30, p999: 100, max: 900 },
      cpuMicrosecondsPerMessage: 25,
      cpuMicroseconds: { processors: 60_000, recorder: 40_000 },
      requestedRateHz: { processors: 1_000, memory: 1_000 },
      achievedRateHz: { processors: 1_000, memory: 900 },
      published: { processors: 2_100, memory: 1_900 },
      skippedTicks: { processors: 0, memory: 200 },
      wouldBlock: { processors: 0, memory: 1 },
      digest: { comparedBlocks: 3, comparedMessages: 3_072, mismatchedBlocks: [] },
      skippedSources: [{ group: "scheduler", path: "/proc/schedstat", reason: "it is empty" }],
      problems: [],
      nodeVersion: process.version,
      kernel: release(),
    });
    assert.equal(exitCodeOf(report), 0);
  });

  const problems: readonly (readonly [string, Partial<ReportInput>, string])[] = [
    [
      "a stamp went back",
      { order: { ...input.order, orderViolations: 1 } },
      "The stamps went back or stood still 1 time.",
    ],
    [
      "there is a gap",
      { order: { ...input.order, gaps: 2, missing: 1 } },
      "Senders' sequence numbers have 2 gaps, 1 message is missing.",
    ],
    [
      "a message was lost at the end",
      { order: { ...input.order, messages: 3_999 } },
      "4000 messages were published, the recorder saw 3999.",
    ],
    ["bytes were wrong", { corrupt: 3 }, "The bytes of 3 messages were wrong."],
    [
      "the digests differ",
      { digest: { comparedBlocks: 1, comparedMessages: 9, mismatchedBlocks: [7] } },
      "The two subscribers saw different messages in 1 of 1 block.",
    ],
    [
      "the digests were not compared",
      { digest: undefined },
      "The digests of the two subscribers could not be compared.",
    ],
  ];
  for (const [what, change, problem] of problems) {
    it(`ends with 1 where ${what}`, () => {
      const report = buildReport({ ...input, ...change });
      assert.deepEqual(report.problems, [problem]);
      assert.equal(exitCodeOf(report), 1);
      assert.ok(renderReport(report).includes(problem));
    });
  }

  it("ends with 1 where nothing was seen, and divides by nothing", () => {
    const order = {
      messages: 0,
      orderViolations: 0,
      gaps: 0,
      missing: 0,
      firstStamp: undefined,
      lastStamp: undefined,
    };
    const report = buildReport({ ...input, elapsedSeconds: 0, order });
    assert.deepEqual(report.problems, ["The recorder saw no messages."]);
    assert.equal(exitCodeOf(report), 1);
    assert.deepEqual(
      [report.messagesPerSecond, report.cpuMicrosecondsPerMessage, report.firstStamp, report.lastStamp],
      [0, null, null, null],
    );
  });

  it("can be written for people", () => {
    assert.equal(
      renderReport(buildReport(input)),
      `4000 messages in 2 s (1999.5/s), 5 processes, stamps 0 to 3999
publishers: processors 1000 of 1000 Hz, memory 900 of 1000 Hz (200 skipped)
delivery latency µs: p50 8, p99 30, p99.9 100, max 900
processor time a message: 25 µs, all processes
order violations 0, gaps 0, 0 of 3 blocks differ (3072 messages compared)
scheduler: /proc/schedstat skipped, it is empty
`,
    );
  });
});
