/** What is measured: the floors, and the figures that stand on each of them. */
import { isCrowded, runCrew } from "./crew.ts";
import { measureNative, type NativeAnswer, numberOf } from "./native.ts";
import type { Settings } from "./options.ts";
import type { AskResult, PublishResult, ReadResult } from "./task.ts";

/** One measurement. */
export interface Sample {
  /** Nanoseconds of an operation, a round trip, or a message. */
  readonly ns: number;
  readonly ns99?: number;
  readonly ns999?: number;
  readonly cpuMicrosPerMessage?: number;
  /** Messages that a reader should have got and did not, or got out of order. */
  readonly lost: number;
}

export interface Floor {
  readonly id: string;
  readonly title: string;
  measure(context: Context): Promise<Sample>;
}

export interface Figure extends Floor {
  readonly language: "Rust" | "JavaScript";
  readonly kind: "latency" | "rate";
  /** Messages of one publish. */
  readonly batch?: number;
  /** Whether its processes share the processors. */
  readonly crowded: boolean;
}

export interface Group {
  readonly floor: Floor;
  readonly figures: readonly Figure[];
}

export interface Context {
  /** The native program. */
  readonly native: string;
  readonly settings: Settings;
}

function times({ settings }: Context): (string | number)[] {
  return ["--ms", settings.milliseconds, "--warm-up-ms", settings.warmUpMilliseconds];
}

function floor(id: string, title: string): Floor {
  return {
    id,
    title,
    async measure(context) {
      return { ns: numberOf(await measureNative(context.native, [id, ...times(context)]), "ns"), lost: 0 };
    },
  };
}

function latencySample(answer: NativeAnswer): Sample {
  return {
    ns: numberOf(answer, "ns"),
    ns99: numberOf(answer, "ns99"),
    ns999: numberOf(answer, "ns999"),
    cpuMicrosPerMessage: numberOf(answer, "cpuMicrosPerMessage"),
    lost: 0,
  };
}

function nativeRoundTrip(id: string, title: string, wait: string): Figure {
  return {
    id,
    title,
    language: "Rust",
    kind: "latency",
    crowded: isCrowded(2),
    async measure(context) {
      return latencySample(
        await measureNative(context.native, ["round-trip", "--wait", wait, ...times(context)]),
      );
    },
  };
}

const scriptRoundTrip: Figure = {
  id: "p1-javascript",
  title: "P1 round trip 64 B, polling",
  language: "JavaScript",
  kind: "latency",
  crowded: isCrowded(2),
  async measure({ native, settings }) {
    const roles = [
      { role: "ask", ...settings },
      { role: "answer", ...settings },
    ] as const;
    const [asked] = (await runCrew(native, roles)) as [AskResult];
    const { ns, ns99, ns999, trips, cpuMicros } = asked;
    // The other side does the same; a trip is two messages.
    return { ns, ns99, ns999, cpuMicrosPerMessage: cpuMicros / trips, lost: 0 };
  },
};

function title(publishers: number, readers: number): string {
  return `P3 64 B, ${publishers} → ${readers}`;
}

function nativeThroughput(publishers: number, readers: number, batch: number): Figure {
  return {
    id: `p3-rust-${publishers}-${readers}-batch-${batch}`,
    title: title(publishers, readers),
    language: "Rust",
    kind: "rate",
    batch,
    crowded: isCrowded(publishers + readers),
    async measure(context) {
      const who = ["--publishers", publishers, "--readers", readers, "--batch", batch];
      const answer = await measureNative(context.native, ["throughput", ...who, ...times(context)]);
      return {
        ns: 1e9 / numberOf(answer, "messagesPerSecond"),
        cpuMicrosPerMessage: numberOf(answer, "cpuMicrosPerMessage"),
        lost: numberOf(answer, "lost") + numberOf(answer, "wrong"),
      };
    },
  };
}

function scriptThroughput(publishers: number, readers: number, batch: number): Figure {
  return {
    id: `p3-javascript-${publishers}-${readers}-batch-${batch}`,
    title: title(publishers, readers),
    language: "JavaScript",
    kind: "rate",
    batch,
    crowded: isCrowded(publishers + readers),
    async measure({ native, settings }) {
      const results = await runCrew(native, [
        ...Array.from({ length: publishers }, (_, index) => ({
          role: "publish" as const,
          index,
          batch,
          ...settings,
        })),
        ...Array.from({ length: readers }, () => ({ role: "read" as const, publishers, ...settings })),
      ]);
      const published = results.slice(0, publishers) as PublishResult[];
      const reads = results.slice(publishers) as ReadResult[];
      const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);
      const perSecond = sum(reads.map((r) => r.perSecond)) / readers;
      const cores = sum([...published, ...reads].map((r) => r.cores));
      const lost = sum(published.map((p) => p.published)) * readers - sum(reads.map((r) => r.delivered));
      return {
        ns: 1e9 / perSecond,
        cpuMicrosPerMessage: (cores / perSecond) * 1e6,
        lost: Math.abs(lost) + sum(reads.map((r) => r.wrong)),
      };
    },
  };
}

/** Everything, in the order of one turn. */
export const plan: readonly Group[] = [
  {
    floor: floor("cache-line", "a cache line to another processor and back, spinning"),
    figures: [nativeRoundTrip("p1-rust", "P1 round trip 64 B, polling", "poll"), scriptRoundTrip],
  },
  {
    floor: floor("futex-wake", "a futex wake to another process and back, both asleep"),
    figures: [nativeRoundTrip("p2-rust", "P2 round trip 64 B, both asleep", "park")],
  },
  {
    floor: floor("fetch-add", "fetch_add while another process does the same"),
    figures: [
      nativeThroughput(1, 1, 1),
      scriptThroughput(1, 1, 1),
      nativeThroughput(1, 1, 32),
      scriptThroughput(1, 1, 32),
      nativeThroughput(1, 4, 1),
      scriptThroughput(1, 4, 1),
      nativeThroughput(1, 4, 32),
      scriptThroughput(1, 4, 32),
      nativeThroughput(4, 1, 1),
      nativeThroughput(4, 4, 1),
    ],
  },
];
