/** What the parent and its children say to each other over the fork channel. */
import type { GroupDescription, SkippedSource } from "./samplers.ts";
import type { DigestSnapshot, LatencySummary, OrderCounts } from "./statistics.ts";

/** Each message in flight takes one of so many headers: at 10 kHz they last for 3 s. */
export const publisherHeaders = 32_768;
/** Enough for as many samples of the largest machine. */
export const publisherRingBytes = 16 * 1024 * 1024;
/** Those who publish nothing take the smallest memory there is. */
export const readerMemory = { headers: 64, ringBytes: 64 * 1024 } as const;
/**
 * How long publishers wait for a reader once its backlog fills a ring, in milliseconds. Longer than any pause of a
 * busy machine: losing a reader would fail the run.
 */
export const readerDeadlineMilliseconds = 10_000;

/** What a reader or publisher needs to find the bus. */
export interface BusSettings {
  readonly bus: string;
}

/** What a publisher publishes. */
export interface PublisherSettings extends BusSettings {
  /** One of `publisherGroups`. */
  readonly publisher: string;
  /** Samples a second, all its groups together. */
  readonly rateHz: number;
}

/** What a publisher found on this machine. */
export interface PublisherGroups {
  readonly groups: readonly GroupDescription[];
  readonly skipped: readonly SkippedSource[];
}

/** What a publisher did. Times are microseconds of the monotonic clock. */
export interface PublisherEnd {
  readonly startedAtMicroseconds: number;
  readonly endedAtMicroseconds: number;
  readonly published: number;
  /** Samples that were due and not made: the machine was behind, or there was no room. */
  readonly skippedTicks: number;
  /** How often there was no room for a sample. */
  readonly wouldBlock: number;
  /** Stamp of its last sample. */
  readonly lastStamp: number | undefined;
  /** Processor time since the start. */
  readonly cpuMicroseconds: number;
}

/** What a reader saw. */
export interface ReaderEnd {
  readonly order: OrderCounts;
  readonly corrupt: number;
  readonly latency: LatencySummary;
  readonly digest: DigestSnapshot;
  /** Processor time since it subscribed. */
  readonly cpuMicroseconds: number;
}

/** What the parent can ask of a publisher, in this order. */
export interface PublisherCalls {
  /** Attaches, opens the samplers and makes the groups. */
  open(settings: PublisherSettings): Promise<PublisherGroups>;
  /** Begins to publish. */
  start(): Promise<void>;
  /** Ends publishing. */
  stop(): Promise<PublisherEnd>;
}

/** What the parent can ask of the recorder, in this order. */
export interface RecorderCalls {
  /** Attaches and subscribes. */
  open(settings: BusSettings): Promise<void>;
  /** Reads up to this stamp, the last that was published, and tells what it saw. */
  drain(lastStamp: number | undefined): Promise<ReaderEnd>;
}

/** What the live view needs to draw. */
export interface ViewSettings extends PublisherGroups {
  /** Draw nothing, only read. */
  readonly silent: boolean;
}

/** What the parent can ask of the live view, in this order. */
export interface ViewCalls extends RecorderCalls {
  /** Begins to read and to draw; comes after `open`. */
  show(settings: ViewSettings): Promise<void>;
}

/** Any of the interfaces above. */
export type CallsOf<C> = { readonly [M in keyof C]: (argument: never) => Promise<unknown> };

/** A call; `leave` takes the child off the bus and ends it. */
export interface Call {
  readonly kind: "call";
  readonly number: number;
  readonly method: string;
  readonly argument: unknown;
}

/** What a child sends. */
export type FromChild =
  | { readonly kind: "answer"; readonly number: number; readonly value: unknown }
  | { readonly kind: "refusal"; readonly number: number; readonly reason: string }
  /** It cannot go on and ends. */
  | { readonly kind: "failure"; readonly reason: string }
  /** It was told to end, which is the parent's to do: by a signal, or as nobody reads its output any more. */
  | { readonly kind: "stop"; readonly signal: NodeJS.Signals };

/** The name of the call that ends every child. */
export const leave = "leave";

/** A short text for what was thrown. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
