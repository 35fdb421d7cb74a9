/** The JSON object at the end of a run, and the exit code. */
import { release } from "node:os";
import type { SkippedSource } from "./samplers.ts";
import type { DigestComparison, LatencySummary, OrderCounts } from "./statistics.ts";

/** What a publisher tells at its end. */
export interface PublisherResult {
  readonly publisher: string;
  readonly requestedRateHz: number;
  /** Samples a second that it made. */
  readonly achievedRateHz: number;
  readonly published: number;
  /** Samples given up as the machine could not keep up, or as there was no room. */
  readonly skippedTicks: number;
  /** How often there was no room for a sample. */
  readonly wouldBlock: number;
}

/** What the report is made from. */
export interface ReportInput {
  /** From the first publisher's start to the last one's end, in seconds. */
  readonly elapsedSeconds: number;
  /** How many processes took part. */
  readonly processes: number;
  readonly groups: readonly string[];
  /** What the recorder counted. */
  readonly order: OrderCounts;
  /** Samples that the recorder could not read or whose checksum was wrong. */
  readonly corrupt: number;
  readonly latency: LatencySummary;
  /** Processor time, user and system, in microseconds, by process. */
  readonly cpuMicroseconds: Readonly<Record<string, number>>;
  readonly publishers: readonly PublisherResult[];
  /** How the digests of the two subscribers compare; undefined if that could not be done. */
  readonly digest: DigestComparison | undefined;
  readonly skipped: readonly SkippedSource[];
}

/** The report, to be written as JSON. */
export interface TelemetryReport {
  readonly elapsedSeconds: number;
  readonly messages: number;
  readonly messagesPerSecond: number;
  readonly processes: number;
  readonly groups: readonly string[];
  readonly firstStamp: number | null;
  readonly lastStamp: number | null;
  readonly orderViolations: number;
  /** Places where messages of a sender are missing, and how many are missing there. */
  readonly gaps: number;
  readonly missing: number;
  readonly corrupt: number;
  readonly latencyMicroseconds: LatencySummary;
  /** Processor time of all processes for each message; null without messages. */
  readonly cpuMicrosecondsPerMessage: number | null;
  /** Processor time while messages went through, by process. */
  readonly cpuMicroseconds: Readonly<Record<string, number>>;
  /** By publisher. */
  readonly requestedRateHz: Readonly<Record<string, number>>;
  readonly achievedRateHz: Readonly<Record<string, number>>;
  readonly published: Readonly<Record<string, number>>;
  readonly skippedTicks: Readonly<Record<string, number>>;
  readonly wouldBlock: Readonly<Record<string, number>>;
  /** Null if the digests could not be compared. */
  readonly digest: DigestComparison | null;
  /** Sources that this machine does not have: path and reason. */
  readonly skippedSources: readonly SkippedSource[];
  /** Why the exit code is 1; empty if it is 0. */
  readonly problems: readonly string[];
  readonly nodeVersion: string;
  readonly kernel: string;
}

function byPublisher(
  publishers: readonly PublisherResult[],
  valueOf: (publisher: PublisherResult) => number,
): Record<string, number> {
  return Object.fromEntries(publishers.map((one) => [one.publisher, valueOf(one)]));
}

function rounded(value: number, figures = 3): number {
  const factor = 10 ** figures;
  return Math.round(value * factor) / factor;
}

function count(number: number, one: string, many: string): string {
  return `${number} ${number === 1 ? one : many}`;
}

/** Sentences on all that went wrong; none if all is well. */
function problemsOf(input: ReportInput): string[] {
  const { order, corrupt, digest, publishers } = input;
  const problems: string[] = [];
  const published = publishers.reduce((sum, one) => sum + one.published, 0);
  if (order.messages === 0) {
    problems.push("The recorder saw no messages.");
  } else if (order.messages + corrupt < published || order.messages > published) {
    problems.push(
      `${count(published, "message was", "messages were")} published, the recorder saw ${order.messages}.`,
    );
  }
  if (order.orderViolations > 0) {
    problems.push(`The stamps went back or stood still ${count(order.orderViolations, "time", "times")}.`);
  }
  if (order.gaps > 0) {
    problems.push(
      `Senders' sequence numbers have ${count(order.gaps, "gap", "gaps")}, ` +
        `${count(order.missing, "message is", "messages are")} missing.`,
    );
  }
  if (corrupt > 0) {
    problems.push(`The bytes of ${count(corrupt, "message", "messages")} were wrong.`);
  }
  if (digest === undefined) {
    problems.push("The digests of the two subscribers could not be compared.");
  } else if (digest.mismatchedBlocks.length > 0) {
    problems.push(
      `The two subscribers saw different messages in ${digest.mismatchedBlocks.length} of ` +
        `${count(digest.comparedBlocks, "block", "blocks")}.`,
    );
  }
  return problems;
}

/** Builds the report of a run on this machine. */
export function buildReport(input: ReportInput): TelemetryReport {
  const { order, publishers, elapsedSeconds } = input;
  const cpuMicroseconds = Object.values(input.cpuMicroseconds).reduce((sum, one) => sum + one, 0);
  return {
    elapsedSeconds: rounded(elapsedSeconds),
    messages: order.messages,
    messagesPerSecond: elapsedSeconds > 0 ? rounded(order.messages / elapsedSeconds, 1) : 0,
    processes: input.processes,
    groups: input.groups,
    firstStamp: order.firstStamp ?? null,
    lastStamp: order.lastStamp ?? null,
    orderViolations: order.orderViolations,
    gaps: order.gaps,
    missing: order.missing,
    corrupt: input.corrupt,
    latencyMicroseconds: input.latency,
    cpuMicrosecondsPerMessage: order.messages > 0 ? rounded(cpuMicroseconds / order.messages) : null,
    cpuMicroseconds: input.cpuMicroseconds,
    requestedRateHz: byPublisher(publishers, (one) => one.requestedRateHz),
    achievedRateHz: byPublisher(publishers, (one) => rounded(one.achievedRateHz, 1)),
    published: byPublisher(publishers, (one) => one.published),
    skippedTicks: byPublisher(publishers, (one) => one.skippedTicks),
    wouldBlock: byPublisher(publishers, (one) => one.wouldBlock),
    digest: input.digest ?? null,
    skippedSources: input.skipped,
    problems: problemsOf(input),
    nodeVersion: process.version,
    kernel: release(),
  };
}

/** 0 if the report names no problem, else 1. */
export function exitCodeOf(report: TelemetryReport): 0 | 1 {
  return report.problems.length === 0 ? 0 : 1;
}

/** The report as text for people, some lines. */
export function renderReport(report: TelemetryReport): string {
  const { latencyMicroseconds: latency, digest } = report;
  const rates = Object.entries(report.achievedRateHz).map(([publisher, rate]) => {
    const skipped = report.skippedTicks[publisher] ?? 0;
    return (
      `${publisher} ${rate} of ${report.requestedRateHz[publisher] ?? 0} Hz` +
      (skipped > 0 ? ` (${skipped} skipped)` : "")
    );
  });
  const lines = [
    `${report.messages} messages in ${report.elapsedSeconds} s (${report.messagesPerSecond}/s), ` +
      `${report.processes} processes, stamps ${report.firstStamp ?? "-"} to ${report.lastStamp ?? "-"}`,
    `publishers: ${rates.join(", ")}`,
    `delivery latency µs: p50 ${latency.p50}, p99 ${latency.p99}, p99.9 ${latency.p999}, max ${latency.max}`,
    `processor time a message: ${report.cpuMicrosecondsPerMessage ?? "-"} µs, all processes`,
    `order violations ${report.orderViolations}, gaps ${report.gaps}, ` +
      (digest === null
        ? "digests not compared"
        : `${digest.mismatchedBlocks.length} of ${digest.comparedBlocks} blocks differ ` +
          `(${digest.comparedMessages} messages compared)`),
    ...report.skippedSources.map(({ group, path, reason }) => `${group}: ${path} skipped, ${reason}`),
    ...report.problems,
  ];
  return `${lines.join("\n")}\n`;
}
