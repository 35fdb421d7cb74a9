/**
 * The telemetry bus: this process founds the bus `telemetry-<pid>` and forks five others, three that publish, a live
 * view and a recorder. It tells them when to start and to stop, and compares what they saw.
 *
 * The bus lies in the user's own runtime directory (see `SHM_BUS_RUNTIME_DIR`) and is gone when this process ends.
 */
import { constants } from "node:os";
import { Bus } from "shm-bus";
import { parseOptions } from "./options.ts";
import type { TelemetryOptions } from "./options.ts";
import { RoleProcess } from "./processes.ts";
import { readerMemory, reasonOf } from "./protocol.ts";
import type {
  CallsOf,
  PublisherCalls,
  PublisherEnd,
  ReaderEnd,
  RecorderCalls,
  ViewCalls,
} from "./protocol.ts";
import { buildReport, exitCodeOf, renderReport } from "./report.ts";
import { publisherGroups } from "./samplers.ts";
import { compareDigests } from "./statistics.ts";

/** A second Ctrl-C within this time is the same one: npm hands on what the terminal has sent already. */
const sameSignalMilliseconds = 500;

/** Thrown if the run is to end before it has begun, or at once. */
class Interrupted extends Error {
  readonly exitCode: number;

  constructor(signal: NodeJS.Signals, message: string) {
    super(message);
    this.exitCode = 128 + constants.signals[signal];
  }
}

/** Who wants the run to end, and how. */
class Ending {
  /** Aborts when the run is to end in good order. */
  readonly stop = new AbortController();
  /** Aborts, with an error, when the run cannot go on. */
  readonly failure = new AbortController();
  signal: NodeJS.Signals = "SIGTERM";
  #interruptedAt: number | undefined;

  constructor() {
    for (const signal of ["SIGTERM", "SIGHUP"] as const) {
      process.on(signal, () => {
        this.request(signal);
      });
    }
    process.on("SIGINT", () => {
      this.request("SIGINT");
      const now = performance.now();
      this.#interruptedAt ??= now;
      if (now - this.#interruptedAt < sameSignalMilliseconds) return;
      this.failure.abort(new Interrupted("SIGINT", "Killed: there is no report."));
    });
  }

  request(signal: NodeJS.Signals): void {
    if (this.stop.signal.aborted) return;
    this.signal = signal;
    this.stop.abort();
  }

  fail(sentence: string): void {
    this.failure.abort(new Error(sentence));
  }

  /** Settles with `work`, unless the run has to end before. */
  async during<T>(work: Promise<T>): Promise<T> {
    const interrupted = () =>
      new Interrupted(this.signal, "Stopped before the first sample: there is no report.");
    return settleUnless(settleUnless(work, this.stop.signal, interrupted), this.failure.signal);
  }

  /** Settles with `work`, unless the run cannot go on. */
  async unlessFailed<T>(work: Promise<T>): Promise<T> {
    return settleUnless(work, this.failure.signal);
  }

  /** Resolves when the run is to end, after `seconds` at the latest. */
  async requested(seconds: number | undefined): Promise<void> {
    const { signal } = this.stop;
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = seconds === undefined ? undefined : setTimeout(resolve, seconds * 1e3);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

/** Settles with `work`, or rejects as soon as the signal aborts. */
function settleUnless<T>(
  work: Promise<T>,
  signal: AbortSignal,
  reason: () => unknown = () => signal.reason,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(reason() as Error);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => {
      signal.removeEventListener("abort", onAbort);
    });
  });
}

/** The five processes. */
interface Processes {
  readonly view: RoleProcess<ViewCalls>;
  readonly recorder: RoleProcess<RecorderCalls>;
  readonly publishers: readonly RoleProcess<PublisherCalls>[];
  readonly all: readonly Pick<RoleProcess<RecorderCalls>, "leave" | "end">[];
}

function forkAll(json: boolean, ending: Ending): Processes {
  function forkRole<C extends CallsOf<C>>(name: string, file: string, writes: boolean): RoleProcess<C> {
    return new RoleProcess<C>({
      name,
      file,
      writes,
      onFailure: (sentence) => {
        ending.fail(sentence);
      },
      onStop: (signal) => {
        ending.request(signal);
      },
    });
  }
  const view = forkRole<ViewCalls>("view", "live-view.js", !json);
  const recorder = forkRole<RecorderCalls>("recorder", "recorder.js", false);
  const publishers = publisherGroups.map(({ publisher }) =>
    forkRole<PublisherCalls>(`${publisher} publisher`, "publisher.js", false),
  );
  return { view, recorder, publishers, all: [...publishers, view, recorder] };
}

/** What all have told at the end. */
interface Ends {
  readonly publishers: readonly PublisherEnd[];
  readonly view: ReaderEnd;
  readonly recorder: ReaderEnd;
}

/** Stops the publishers first, then lets the readers read all there is. */
async function stopAll({ view, recorder, publishers }: Processes): Promise<Ends> {
  const ends = await Promise.all(publishers.map((one) => one.call("stop")));
  const stamps = ends.flatMap(({ lastStamp }) => lastStamp ?? []);
  const lastStamp = stamps.length === 0 ? undefined : Math.max(...stamps);
  const [viewEnd, recorderEnd] = await Promise.all([
    view.call("drain", lastStamp),
    recorder.call("drain", lastStamp),
  ]);
  return { publishers: ends, view: viewEnd, recorder: recorderEnd };
}

/** Runs the whole job and returns the exit code. */
async function run(options: TelemetryOptions, ending: Ending): Promise<number> {
  const { seconds, rateHz, json } = options;
  const name = `telemetry-${process.pid}`;
  // Readers first and publishers last, so that nothing is missed.
  const bus = await Bus.attach(name, { master: "only", ...readerMemory });
  let processes: Processes | undefined;
  try {
    processes = forkAll(json, ending);
    const { view, recorder, publishers, all } = processes;
    await ending.during(
      Promise.all([view.call("open", { bus: name }), recorder.call("open", { bus: name })]),
    );
    const opened = await ending.during(
      Promise.all(
        publishers.map((one, index) => {
          const { publisher } = publisherGroups[index]!;
          return one.call("open", { bus: name, publisher, rateHz });
        }),
      ),
    );
    const groups = opened.flatMap((one) => one.groups);
    const skipped = opened.flatMap((one) => one.skipped);
    await ending.during(view.call("show", { groups, skipped, silent: json }));

    const cpuAtStart = process.cpuUsage();
    await ending.unlessFailed(Promise.all(publishers.map((one) => one.call("start"))));
    await ending.unlessFailed(ending.requested(seconds));
    const ends = await ending.unlessFailed(stopAll(processes));
    const cpu = process.cpuUsage(cpuAtStart);
    await ending.unlessFailed(Promise.all(all.map((one) => one.leave())));

    const startedAt = Math.min(...ends.publishers.map((one) => one.startedAtMicroseconds));
    const endedAt = Math.max(...ends.publishers.map((one) => one.endedAtMicroseconds));
    const report = buildReport({
      elapsedSeconds: (endedAt - startedAt) / 1e6,
      processes: 1 + all.length,
      groups: groups.map(({ group }) => group),
      order: ends.recorder.order,
      corrupt: ends.recorder.corrupt,
      latency: ends.recorder.latency,
      cpuMicroseconds: {
        main: cpu.user + cpu.system,
        ...Object.fromEntries(
          ends.publishers.map((one, index) => [publisherGroups[index]!.publisher, one.cpuMicroseconds]),
        ),
        view: ends.view.cpuMicroseconds,
        recorder: ends.recorder.cpuMicroseconds,
      },
      publishers: ends.publishers.map((one, index) => ({
        publisher: publisherGroups[index]!.publisher,
        requestedRateHz: rateHz,
        achievedRateHz: (one.published * 1e6) / (one.endedAtMicroseconds - one.startedAtMicroseconds),
        published: one.published,
        skippedTicks: one.skippedTicks,
        wouldBlock: one.wouldBlock,
      })),
      digest: compareDigests(ends.recorder.digest, ends.view.digest),
      skipped,
    });
    process.stdout.write(json ? `${JSON.stringify(report)}\n` : `\n${renderReport(report)}`);
    return exitCodeOf(report);
  } finally {
    const atOnce = ending.failure.signal.reason instanceof Interrupted;
    await Promise.all(processes?.all.map((one) => one.end(atOnce)) ?? []);
    await bus.close();
  }
}

async function main(): Promise<number> {
  const parsed = parseOptions(process.argv.slice(2));
  if (parsed.kind === "help") {
    process.stdout.write(parsed.text);
    return 0;
  }
  if (parsed.kind === "error") {
    process.stderr.write(`${parsed.message}\n`);
    return parsed.exitCode;
  }
  // Nobody reads any more: the exit code tells all the same.
  process.stdout.on("error", () => {});
  const { options } = parsed;
  try {
    return await run(options, new Ending());
  } catch (error) {
    // The view may have been killed in the middle of its table.
    if (!options.json && process.stdout.isTTY) process.stdout.write("\u001b[?25h");
    process.stderr.write(`${reasonOf(error)}\n`);
    return error instanceof Interrupted ? error.exitCode : 1;
  }
}

process.exitCode = await main();
