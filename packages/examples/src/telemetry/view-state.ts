/** Gathers what the live view shows: the latest values, their change a second, latency, lag. */
import type { FieldDescription } from "./procfs.ts";
import type { GroupDescription } from "./samplers.ts";
import { LatencyHistogram, OrderChecker, RateMeter } from "./statistics.ts";
import type { LatencySummary } from "./statistics.ts";

/** One value on show. */
export interface ShownValue extends FieldDescription {
  /** The latest value, in `unit`. */
  readonly value: number;
  /** Of a counter its change, in `unit` a second; of a gauge and before it is known undefined. */
  readonly perSecond: number | undefined;
}

/** One group on show. */
export interface ShownGroup {
  readonly group: string;
  readonly messages: number;
  readonly messagesPerSecond: number;
  /** The stamp of its latest message; undefined before the first. */
  readonly stamp: number | undefined;
  /** Delivery latency since the start, in microseconds. */
  readonly latency: LatencySummary;
  readonly values: readonly ShownValue[];
}

/** All that the view shows; plain data. */
export interface TelemetryState {
  readonly elapsedSeconds: number;
  /** How many processes are on the bus. */
  readonly processes: number;
  readonly messages: number;
  readonly messagesPerSecond: number;
  readonly stamp: number | undefined;
  /** Messages published that this subscriber has not read yet; undefined if not known. */
  readonly lag: number | undefined;
  /** Delivery latency of all groups since the start, in microseconds. */
  readonly latency: LatencySummary;
  readonly orderViolations: number;
  readonly gaps: number;
  readonly groups: readonly ShownGroup[];
  /** Sentences to show below, such as which source was skipped. */
  readonly notes: readonly string[];
}

/** A change a second is measured over at least this time. */
const baselineMicroseconds = 1_000_000;

class GroupState {
  readonly description: GroupDescription;
  readonly latency = new LatencyHistogram();
  readonly meter: RateMeter;
  stamp: number | undefined;
  readonly #values: Float64Array;
  #valuesAt: number | undefined;
  /** Two older samples: the one measured against, and the one that will take its place. */
  readonly #older: Float64Array;
  #olderAt: number | undefined;
  readonly #newer: Float64Array;
  #newerAt: number | undefined;

  constructor(description: GroupDescription, startMicroseconds: number) {
    const { length } = description.fields;
    this.description = description;
    this.meter = new RateMeter(startMicroseconds);
    this.#values = new Float64Array(length);
    this.#older = new Float64Array(length);
    this.#newer = new Float64Array(length);
  }

  keep(values: Float64Array, sentAtMicroseconds: number): void {
    const taken = values.subarray(0, this.#values.length);
    this.#values.set(taken);
    this.#valuesAt = sentAtMicroseconds;
    if (this.#olderAt === undefined || this.#newerAt === undefined) {
      this.#older.set(taken);
      this.#olderAt = sentAtMicroseconds;
      this.#newer.set(taken);
      this.#newerAt = sentAtMicroseconds;
    } else if (sentAtMicroseconds - this.#newerAt >= baselineMicroseconds) {
      this.#older.set(this.#newer);
      this.#olderAt = this.#newerAt;
      this.#newer.set(taken);
      this.#newerAt = sentAtMicroseconds;
    }
  }

  shown(nowMicroseconds: number): ShownGroup {
    const seconds =
      this.#valuesAt === undefined || this.#olderAt === undefined
        ? 0
        : (this.#valuesAt - this.#olderAt) / 1e6;
    return {
      group: this.description.group,
      messages: this.meter.total,
      messagesPerSecond: this.meter.perSecond(nowMicroseconds),
      stamp: this.stamp,
      latency: this.latency.summary(),
      values: this.description.fields.map((field, index) => {
        const value = this.#values[index] ?? 0;
        const perSecond =
          field.kind === "counter" && seconds > 0 ? (value - (this.#older[index] ?? 0)) / seconds : undefined;
        return { ...field, value, perSecond };
      }),
    };
  }
}

/** Takes every message and gives the state to draw. Times are monotonic microseconds. */
export class TelemetryModel {
  readonly #groups = new Map<string, GroupState>();
  readonly #startMicroseconds: number;
  readonly #meter: RateMeter;
  readonly #latency = new LatencyHistogram();
  readonly #order = new OrderChecker();

  /** @param groups - in the order in which they are shown. */
  constructor(groups: readonly GroupDescription[], startMicroseconds: number) {
    this.#startMicroseconds = startMicroseconds;
    this.#meter = new RateMeter(startMicroseconds);
    for (const description of groups) {
      this.#groups.set(description.group, new GroupState(description, startMicroseconds));
    }
  }

  /** Takes a message of a group; one of a group that is not shown only counts in the sums. */
  observe(message: {
    readonly group: string;
    readonly stamp: number;
    readonly sender: number;
    readonly sequence: number;
    readonly sentAtMicroseconds: number;
    readonly receivedAtMicroseconds: number;
    readonly values: Float64Array;
  }): void {
    const { stamp, sentAtMicroseconds, receivedAtMicroseconds } = message;
    const latency = receivedAtMicroseconds - sentAtMicroseconds;
    this.#order.observe(stamp, message.sender, message.sequence);
    this.#meter.add(receivedAtMicroseconds);
    this.#latency.record(latency);
    const group = this.#groups.get(message.group);
    if (group === undefined) return;
    group.stamp = stamp;
    group.meter.add(receivedAtMicroseconds);
    group.latency.record(latency);
    group.keep(message.values, sentAtMicroseconds);
  }

  /** The state to draw now. */
  state(
    nowMicroseconds: number,
    more: {
      readonly processes: number;
      readonly lag: number | undefined;
      readonly notes: readonly string[];
    },
  ): TelemetryState {
    const { messages, lastStamp, orderViolations, gaps } = this.#order.counts();
    return {
      elapsedSeconds: (nowMicroseconds - this.#startMicroseconds) / 1e6,
      processes: more.processes,
      messages,
      messagesPerSecond: this.#meter.perSecond(nowMicroseconds),
      stamp: lastStamp,
      lag: more.lag,
      latency: this.#latency.summary(),
      orderViolations,
      gaps,
      groups: [...this.#groups.values()].map((group) => group.shown(nowMicroseconds)),
      notes: more.notes,
    };
  }
}
