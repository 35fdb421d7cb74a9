import assert from "node:assert/strict";
import { PaceSchedule, startPace } from "../src/telemetry/pace.ts";
import type { PaceClock, PaceOptions } from "../src/telemetry/pace.ts";

/** A clock that only goes on where the test or a wait moves it. */
class FakeClock implements PaceClock {
  microseconds = 5_000_000;
  naps = 0;
  longestNap = 0;
  turns = 0;
  timers = 0;
  /** How late every wait ends. */
  late = 0;
  #next: { at: number; callback: () => void } | undefined;

  now(): number {
    return this.microseconds;
  }

  nap(microseconds: number): void {
    this.naps += 1;
    this.longestNap = Math.max(this.longestNap, microseconds);
    this.microseconds += microseconds + this.late;
  }

  soon(callback: () => void): () => void {
    this.turns += 1;
    return this.#schedule(callback, this.microseconds + 1);
  }

  later(callback: () => void, milliseconds: number): () => void {
    assert.ok(milliseconds >= 1);
    this.timers += 1;
    return this.#schedule(callback, this.microseconds + milliseconds * 1e3 + this.late);
  }

  get pending(): boolean {
    return this.#next !== undefined;
  }

  #schedule(callback: () => void, at: number): () => void {
    assert.equal(this.#next, undefined, "one wait at a time");
    const entry = { at, callback };
    this.#next = entry;
    return () => {
      if (this.#next === entry) this.#next = undefined;
    };
  }

  /** Runs until the clock has moved on by so much, or nothing waits any more. */
  run(microseconds: number): void {
    const end = this.microseconds + microseconds;
    for (;;) {
      const next = this.#next;
      if (next === undefined || next.at > end) break;
      this.#next = undefined;
      this.microseconds = Math.max(this.microseconds, next.at);
      next.callback();
    }
    this.microseconds = Math.max(this.microseconds, end);
  }
}

function paced(options: Partial<PaceOptions> & { rateHz: number }, work = 0) {
  const clock = new FakeClock();
  const ticks: number[] = [];
  const pace = startPace({
    tick: (index) => {
      ticks.push(index);
      clock.microseconds += work;
    },
    clock,
    ...options,
  });
  return { clock, ticks, pace };
}

describe("telemetry pace", () => {
  it("is due at every multiple of the period, computed without drift", () => {
    const schedule = new PaceSchedule(3, 1_000);
    let ticks = 0;
    let now = 1_000;
    while (ticks < 300_000) {
      assert.equal(schedule.due(now), 1, `tick ${ticks}`);
      schedule.ran();
      ticks += 1;
      assert.equal(schedule.due(now), 0);
      now += schedule.untilNext(now);
    }
    // 300000 ticks at 3 Hz are 100000 s, but for rounding of the doubles.
    assert.ok(Math.abs(now - 1_000 - 1e11) < 1);
  });

  it("is not due before its start", () => {
    const schedule = new PaceSchedule(10, 500);
    assert.equal(schedule.due(499), 0);
    assert.equal(schedule.untilNext(499), 1);
  });

  it("makes up for lateness in bursts, and gives up what is too far behind", () => {
    const schedule = new PaceSchedule(1_000, 0, { maximumBurst: 4, maximumBacklog: 10 });
    const take = (now: number): number => {
      const due = schedule.due(now);
      for (let left = due; left > 0; left -= 1) schedule.ran();
      return due;
    };
    assert.equal(take(0), 1);
    // 9 behind: 4, 4, 1
    assert.deepEqual([take(9_000), take(9_000), take(9_000), take(9_000)], [4, 4, 1, 0]);
    // 100 behind: 90 given up
    assert.deepEqual([take(109_000), take(109_000), take(109_000), take(109_000)], [4, 4, 2, 0]);
    assert.equal(schedule.untilNext(109_000), 1_000);
    assert.deepEqual(schedule.report(200_000), {
      requestedRateHz: 1_000,
      achievedRateHz: 100,
      ticks: 20,
      skippedTicks: 90,
    });
  });

  it("refuses rates that are none", () => {
    for (const rate of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.throws(() => new PaceSchedule(rate, 0), RangeError);
    }
  });

  for (const rateHz of [1, 7, 100, 1_000, 3_333, 10_000]) {
    it(`keeps ${rateHz} Hz though every wait ends late`, () => {
      const { clock, ticks, pace } = paced({ rateHz });
      clock.late = 75;
      clock.run(10_000_000);
      assert.ok(Math.abs(ticks.length - rateHz * 10) <= 2, `${ticks.length} ticks`);
      assert.deepEqual(
        ticks,
        ticks.map((_, index) => index),
      );
      const report = pace.report();
      assert.equal(report.skippedTicks, 0);
      assert.ok(Math.abs(report.achievedRateHz - rateHz) <= 0.2);
      assert.ok(clock.longestNap <= 1_000);
    });
  }

  it("waits in timers at low rates and wakes a few times a tick only", () => {
    const { clock, ticks } = paced({ rateHz: 10 });
    clock.run(10_000_000);
    assert.equal(ticks.length, 100);
    assert.ok(clock.timers >= 99);
    assert.ok(clock.turns <= 400, `${clock.turns} turns`);
  });

  it("reports the rate that a slow machine reaches", () => {
    // 250 µs a tick leave room for 4 kHz.
    const { clock, ticks, pace } = paced({ rateHz: 10_000 }, 250);
    clock.run(10_000_000);
    const report = pace.report();
    assert.ok(Math.abs(report.achievedRateHz - 4_000) < 20, `${report.achievedRateHz} Hz`);
    assert.equal(report.ticks, ticks.length);
    assert.ok(Math.abs(report.skippedTicks - 60_000) < 200, `${report.skippedTicks} skipped`);
  });

  it("stops at once and tells the final report", async () => {
    const { clock, ticks, pace } = paced({ rateHz: 100 });
    clock.run(1_000_000);
    pace.stop();
    pace.stop();
    assert.equal(clock.pending, false);
    const before = ticks.length;
    clock.run(1_000_000);
    assert.equal(ticks.length, before);
    const report = await pace.done;
    assert.equal(report.ticks, before);
    assert.deepEqual(pace.report(), report);
  });

  it("can be stopped by its own tick, in the middle of a burst", async () => {
    const clock = new FakeClock();
    let ticks = 0;
    const pace = startPace({
      rateHz: 1_000,
      clock,
      tick: () => {
        ticks += 1;
        if (ticks === 3) pace.stop();
      },
    });
    clock.microseconds += 8_000;
    clock.run(1_000_000);
    assert.equal(ticks, 3);
    assert.equal(clock.pending, false);
    assert.equal((await pace.done).ticks, 3);
  });

  it("ends with what a tick throws", async () => {
    const { clock, pace } = paced({
      rateHz: 1_000,
      tick: (index) => {
        if (index === 2) throw new Error("tick 2");
      },
    });
    clock.run(1_000_000);
    await assert.rejects(pace.done, { message: "tick 2" });
    assert.equal(clock.pending, false);
  });

  it("ends with its signal, also with one aborted before", async () => {
    const controller = new AbortController();
    const { clock, ticks, pace } = paced({ rateHz: 100, signal: controller.signal });
    clock.run(100_000);
    controller.abort();
    assert.equal((await pace.done).ticks, ticks.length);
    assert.equal(clock.pending, false);
    const late = paced({ rateHz: 100, signal: controller.signal });
    late.clock.run(100_000);
    assert.equal((await late.pace.done).ticks, 0);
    assert.deepEqual(late.ticks, []);
  });

  it("runs on the real event loop", async () => {
    let ticks = 0;
    const pace = startPace({
      rateHz: 10_000,
      tick: () => {
        ticks += 1;
        if (ticks === 100) pace.stop();
      },
    });
    assert.equal((await pace.done).ticks, 100);
  });
});
