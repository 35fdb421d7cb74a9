/**
 * Runs a function at a steady rate, up to 10 kHz, on the event loop.
 *
 * Tick number k is due at `start + k / rate`, computed anew each time, so that lateness never
 * adds up. Between ticks the loop waits in a timer as long as it can, then in naps of at most a
 * millisecond that leave the processor to others; it does not spin.
 */

/** How much lateness is made up for. */
export interface PaceLimits {
  /** At most so many ticks in one turn of the event loop; 16 unless told. */
  readonly maximumBurst?: number | undefined;
  /**
   * Ticks further behind than this many are given up and counted as skipped; 64 unless told,
   * and never less than `maximumBurst`.
   */
  readonly maximumBacklog?: number | undefined;
}

/** How well a pace was kept. */
export interface PaceReport {
  readonly requestedRateHz: number;
  /** Ticks that ran, divided by the time since the start. */
  readonly achievedRateHz: number;
  /** Ticks that ran. */
  readonly ticks: number;
  /** Ticks given up as the machine could not keep up. */
  readonly skippedTicks: number;
}

/** When ticks are due; arithmetic only, times in microseconds of any clock. */
export class PaceSchedule {
  readonly rateHz: number;
  readonly #maximumBurst: number;
  readonly #maximumBacklog: number;
  readonly #startMicroseconds: number;
  #ticks = 0;
  #skipped = 0;

  /** @throws RangeError unless the rate is a finite number above 0. */
  constructor(rateHz: number, startMicroseconds: number, limits: PaceLimits = {}) {
    if (!(rateHz > 0 && Number.isFinite(rateHz))) {
      throw new RangeError(`A rate is a finite number of ticks a second above 0, not ${rateHz}.`);
    }
    this.rateHz = rateHz;
    this.#startMicroseconds = startMicroseconds;
    this.#maximumBurst = limits.maximumBurst ?? 16;
    this.#maximumBacklog = Math.max(limits.maximumBacklog ?? 64, this.#maximumBurst);
  }

  /**
   * How many ticks to run at `nowMicroseconds`, a burst at most. Gives up those further behind
   * than the backlog allows.
   */
  due(nowMicroseconds: number): number {
    const elapsed = nowMicroseconds - this.#startMicroseconds;
    if (elapsed < 0) return 0;
    // A millionth of a tick of grace: the due time of a tick, divided back, may round below it.
    const dueInAll = Math.floor((elapsed * this.rateHz) / 1e6 + 1e-6) + 1;
    let due = dueInAll - this.#ticks - this.#skipped;
    if (due > this.#maximumBacklog) {
      this.#skipped += due - this.#maximumBacklog;
      due = this.#maximumBacklog;
    }
    return Math.min(due, this.#maximumBurst);
  }

  /** Counts one tick as run. */
  ran(): void {
    this.#ticks += 1;
  }

  /** Microseconds from `nowMicroseconds` to the next tick; 0 if one is due. */
  untilNext(nowMicroseconds: number): number {
    const next = ((this.#ticks + this.#skipped) * 1e6) / this.rateHz + this.#startMicroseconds;
    return Math.max(0, next - nowMicroseconds);
  }

  /** Ticks that ran. */
  get ticks(): number {
    return this.#ticks;
  }

  /** How well the pace has been kept up to `nowMicroseconds`. */
  report(nowMicroseconds: number): PaceReport {
    const elapsed = nowMicroseconds - this.#startMicroseconds;
    return {
      requestedRateHz: this.rateHz,
      achievedRateHz: elapsed > 0 ? (this.#ticks * 1e6) / elapsed : 0,
      ticks: this.#ticks,
      skippedTicks: this.#skipped,
    };
  }
}

/** The time and the ways to wait that `startPace` uses; a test puts its own in place. */
export interface PaceClock {
  /** Microseconds of a clock that never goes back. */
  now(): number;
  /** Blocks this thread for so many microseconds, about; never asked for more than 1000. */
  nap(microseconds: number): void;
  /** Calls back at the next turn of the event loop; returns what cancels it. */
  soon(callback: () => void): () => void;
  /** Calls back in so many milliseconds; returns what cancels it. */
  later(callback: () => void, milliseconds: number): () => void;
}

const napCell = new Int32Array(new SharedArrayBuffer(4));

/** The machine's own clock. */
export const systemPaceClock: PaceClock = {
  now() {
    return performance.now() * 1e3;
  },
  nap(microseconds) {
    Atomics.wait(napCell, 0, 0, microseconds / 1e3);
  },
  soon(callback) {
    const handle = setImmediate(callback);
    return () => {
      clearImmediate(handle);
    };
  },
  later(callback, milliseconds) {
    const handle = setTimeout(callback, milliseconds);
    return () => {
      clearTimeout(handle);
    };
  },
};

/** What `startPace` does. */
export interface PaceOptions extends PaceLimits {
  /** Ticks a second, above 0. */
  readonly rateHz: number;
  /**
   * Called once a tick with 0, 1, 2, …; what it throws ends the pace and rejects `done`.
   */
  readonly tick: (index: number) => void;
  /** Ends the pace when it is aborted, as `stop` does. */
  readonly signal?: AbortSignal;
  /** The machine's clock unless told. */
  readonly clock?: PaceClock;
}

/** A pace being kept. */
export interface Pace {
  /** Settles after `stop` with the final report, or rejects with what a tick threw. */
  readonly done: Promise<PaceReport>;
  /** How well the pace has been kept so far. */
  report(): PaceReport;
  /** Ends it: no tick runs after this call. */
  stop(): void;
}

/** A wait shorter than this is no wait: the next turn of the loop comes about as late. */
const shortestNapMicroseconds = 20;
const longestNapMicroseconds = 1_000;
/** From here on a timer waits, which lets the thread do other work meanwhile. */
const timerFromMicroseconds = 2_000;

/** Starts calling `tick` at the rate; the first call comes at the next turn of the event loop. */
export function startPace(options: PaceOptions): Pace {
  const { tick, signal, clock = systemPaceClock } = options;
  const schedule = new PaceSchedule(options.rateHz, clock.now(), options);
  let cancel: (() => void) | undefined;
  let final: PaceReport | undefined;
  let resolveDone!: (report: PaceReport) => void;
  let rejectDone!: (error: unknown) => void;
  const done = new Promise<PaceReport>((resolve, reject) => {
    resolveDone = resolve;
    rejectDone = reject;
  });

  function end(): PaceReport {
    cancel?.();
    signal?.removeEventListener("abort", stop);
    return (final ??= schedule.report(clock.now()));
  }

  function stop(): void {
    resolveDone(end());
  }

  function turn(): void {
    for (let left = schedule.due(clock.now()); left > 0; left -= 1) {
      const index = schedule.ticks;
      schedule.ran();
      try {
        tick(index);
      } catch (error) {
        end();
        rejectDone(error);
        return;
      }
      if (final !== undefined) return;
    }
    const wait = schedule.untilNext(clock.now());
    if (wait >= timerFromMicroseconds) {
      // A timer may come a millisecond late: end it early and nap for what is left.
      cancel = clock.later(turn, Math.floor(wait / 1e3) - 1);
      return;
    }
    if (wait >= shortestNapMicroseconds) clock.nap(Math.min(wait, longestNapMicroseconds));
    cancel = clock.soon(turn);
  }

  if (signal?.aborted === true) {
    stop();
  } else {
    signal?.addEventListener("abort", stop);
    cancel = clock.soon(turn);
  }
  return { done, stop, report: () => final ?? schedule.report(clock.now()) };
}
