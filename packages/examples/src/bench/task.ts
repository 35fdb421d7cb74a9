/** What the driver and the JavaScript processes of a measurement say to each other. */

export type Task = {
  readonly directory: string;
  /** Whether the processes outnumber the processors. */
  readonly crowded: boolean;
  readonly milliseconds: number;
  readonly warmUpMilliseconds: number;
} & (
  | { readonly role: "ask" | "answer" }
  | { readonly role: "publish"; readonly index: number; readonly batch: number }
  | { readonly role: "read"; readonly publishers: number }
);

/** Times in nanoseconds. */
export interface AskResult {
  readonly trips: number;
  readonly ns: number;
  readonly ns99: number;
  readonly ns999: number;
  readonly cpuMicros: number;
}

export interface PublishResult {
  readonly published: number;
  readonly wouldBlock: number;
  /** Processors in use meanwhile. */
  readonly cores: number;
}

export interface ReadResult {
  readonly delivered: number;
  /** Messages that were not the next of their publisher. */
  readonly wrong: number;
  readonly perSecond: number;
  readonly cores: number;
}

export type Result = AskResult | PublishResult | ReadResult | Record<string, never>;

/** From a process: it is attached and subscribed; then what it measured. */
export type FromMember = { readonly ready: true } | { readonly result: Result };

/** To a process: what to do; begin; leave. */
export type ToMember = { readonly task: Task } | "go" | "leave";
