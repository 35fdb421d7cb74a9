/** What the view and the recorder have in common: they read all groups and digest what they saw. */
import { Bus } from "shm-bus";
import type { Message, MessageBatch, Subscription } from "shm-bus";
import { readerDeadlineMilliseconds, readerMemory } from "./protocol.ts";
import type { ReaderEnd } from "./protocol.ts";
import { SampleFormatError, decodeSample, monotonicMicroseconds } from "./sample.ts";
import type { DecodedSample } from "./sample.ts";
import { groupNames } from "./samplers.ts";
import { LatencyHistogram, OrderChecker, SequenceDigest } from "./statistics.ts";

/** A sample as it was delivered, valid until the callback returns. */
export interface Delivery {
  readonly group: string;
  readonly stamp: number;
  readonly sender: number;
  readonly receivedAtMicroseconds: number;
  readonly sample: DecodedSample;
}

/** More values than the samples of the largest machine. */
const mostValues = 1_024;

/** A subscription to all groups, which checks order, sequence numbers and checksums. */
export class SampleReader {
  readonly bus: Bus;
  readonly #subscription: Subscription;
  readonly #values = new Float64Array(mostValues);
  readonly #senders = new Map<string, number>();
  readonly #order = new OrderChecker();
  // It has been there since before the first sample: the blocks are whole from the very first stamp.
  readonly #digest = new SequenceDigest({ firstStamp: 0 });
  readonly #latency = new LatencyHistogram();
  readonly #cpuAtStart = process.cpuUsage();
  #corrupt = 0;
  #lastStamp = -1;
  #drainTo: number | undefined;
  #drained: (() => void) | undefined;

  private constructor(bus: Bus, subscription: Subscription) {
    this.bus = bus;
    this.#subscription = subscription;
  }

  /** Attaches and subscribes; nothing that is published from then on is missed. */
  static async open(name: string): Promise<SampleReader> {
    const bus = await Bus.attach(name, { master: "never", ...readerMemory });
    try {
      const options = { deadline: readerDeadlineMilliseconds };
      return new SampleReader(bus, await bus.subscribe([...groupNames], options));
    } catch (error) {
      await bus.close();
      throw error;
    }
  }

  /** How many stamps it has yet to look at. */
  get lag(): number {
    return this.#subscription.lag;
  }

  /** Begins to read; `visit` gets every sample that is whole. */
  read(visit: (delivery: Delivery) => void): void {
    const take = (message: Message): void => this.#take(message, visit);
    this.#subscription.onMessages((batch: MessageBatch) => {
      batch.forEach(take);
      if (this.#drainTo !== undefined && this.#lastStamp >= this.#drainTo) this.#drained?.();
    });
  }

  #take(message: Message, visit: (delivery: Delivery) => void): void {
    const receivedAtMicroseconds = monotonicMicroseconds();
    const { stamp } = message;
    this.#lastStamp = stamp;
    let sample: DecodedSample;
    try {
      sample = decodeSample(message.data, this.#values);
    } catch (error) {
      if (!(error instanceof SampleFormatError)) throw error;
      this.#corrupt += 1;
      return;
    }
    const sender = this.#senderNumber(message.sender);
    this.#order.observe(stamp, sender, sample.sequence);
    this.#digest.observe(stamp, sender, sample.checksum);
    this.#latency.record(receivedAtMicroseconds - sample.sentAtMicroseconds);
    visit({ group: message.group ?? "", stamp, sender, receivedAtMicroseconds, sample });
  }

  /** The number n of an address `0:n`. */
  #senderNumber(address: string): number {
    let number = this.#senders.get(address);
    if (number === undefined) {
      number = Number(address.slice(address.indexOf(":") + 1));
      this.#senders.set(address, number);
    }
    return number;
  }

  /** Reads on up to `lastStamp`, behind which nothing is published any more, and tells what it saw. */
  async drain(lastStamp: number | undefined): Promise<ReaderEnd> {
    if (lastStamp !== undefined && this.#lastStamp < lastStamp) {
      this.#drainTo = lastStamp;
      await new Promise<void>((resolve) => (this.#drained = resolve));
    }
    const cpu = process.cpuUsage(this.#cpuAtStart);
    return {
      order: this.#order.counts(),
      corrupt: this.#corrupt + this.#subscription.violations,
      latency: this.#latency.summary(),
      digest: this.#digest.snapshot(true),
      cpuMicroseconds: cpu.user + cpu.system,
    };
  }

  /** Leaves the bus. */
  async close(): Promise<void> {
    await this.bus.close();
  }
}
