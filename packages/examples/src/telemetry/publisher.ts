/** A publisher's process: samples its groups in turn and publishes each sample. */
import { serve } from "./role.ts";
import { Bus, ShmBusError } from "shm-bus";
import { startPace } from "./pace.ts";
import type { Pace } from "./pace.ts";
import { publisherHeaders, publisherRingBytes } from "./protocol.ts";
import type { PublisherCalls } from "./protocol.ts";
import { encodeSample, monotonicMicroseconds, sampleByteLength } from "./sample.ts";
import { openSamplers, publisherGroups } from "./samplers.ts";
import type { Sampler } from "./samplers.ts";

/** A publisher that other processes kept off the processor makes up for so much; it skips what is older. */
const madeUpSeconds = 0.05;

/** Publishes one sample at each tick. */
class Publisher {
  readonly #bus: Bus;
  readonly #samplers: readonly Sampler[];
  readonly #values: Float64Array;
  readonly #ended = new AbortController();
  readonly pace: Pace | undefined;
  readonly startedAtMicroseconds = monotonicMicroseconds();
  readonly #cpuAtStart = process.cpuUsage();
  published = 0;
  wouldBlock = 0;
  lastStamp: number | undefined;
  /** Ticks that came while there was no room. */
  blockedTicks = 0;
  #blocked = false;

  constructor(bus: Bus, samplers: readonly Sampler[], rateHz: number) {
    this.#bus = bus;
    this.#samplers = samplers;
    this.#values = new Float64Array(Math.max(0, ...samplers.map(({ fields }) => fields.length)));
    if (samplers.length > 0) {
      const maximumBacklog = Math.ceil(rateHz * madeUpSeconds);
      this.pace = startPace({ rateHz, maximumBacklog, tick: () => this.#tick() });
    }
    // What a tick throws is not a matter of the pace: it ends this process.
    this.pace?.done.catch((error: unknown) => {
      process.nextTick(() => {
        throw error;
      });
    });
  }

  #tick(): void {
    if (this.#blocked) {
      this.blockedTicks += 1;
      return;
    }
    const sampler = this.#samplers[this.published % this.#samplers.length]!;
    const count = sampler.sample(this.#values);
    try {
      // Straight into the ring: readers see these very bytes.
      const loan = this.#bus.loan(sampler.group, sampleByteLength(count));
      encodeSample(loan.bytes, this.published, monotonicMicroseconds(), this.#values, count);
      this.lastStamp = loan.publish();
      this.published += 1;
    } catch (error) {
      if (!(error instanceof ShmBusError && error.code === "ERR_SHM_BUS_WOULD_BLOCK")) throw error;
      this.wouldBlock += 1;
      this.blockedTicks += 1;
      void this.#waitForRoom();
    }
  }

  async #waitForRoom(): Promise<void> {
    this.#blocked = true;
    const { signal } = this.#ended;
    try {
      await this.#bus.writable({ signal });
    } catch (error) {
      if (!signal.aborted) throw error;
    }
    this.#blocked = false;
  }

  /** Ends publishing. */
  stop(): void {
    this.pace?.stop();
    this.#ended.abort();
  }

  get cpuMicroseconds(): number {
    const { user, system } = process.cpuUsage(this.#cpuAtStart);
    return user + system;
  }
}

let bus: Bus | undefined;
let samplers: readonly Sampler[] = [];
let rate = 0;
let publisher: Publisher | undefined;

serve<PublisherCalls>(
  {
    async open({ bus: name, publisher, rateHz }) {
      const wanted = publisherGroups.find((one) => one.publisher === publisher)!;
      bus = await Bus.attach(name, {
        master: "never",
        headers: publisherHeaders,
        ringBytes: publisherRingBytes,
      });
      const opened = openSamplers({ groups: wanted.groups });
      for (const { group } of opened.samplers) await bus.createGroup(group);
      samplers = opened.samplers;
      rate = rateHz;
      return { groups: samplers.map(({ description }) => description), skipped: opened.skipped };
    },
    async start() {
      publisher = new Publisher(bus!, samplers, rate);
    },
    async stop() {
      const { startedAtMicroseconds, pace } = publisher!;
      publisher!.stop();
      const { published, wouldBlock, blockedTicks, lastStamp, cpuMicroseconds } = publisher!;
      return {
        startedAtMicroseconds,
        endedAtMicroseconds: monotonicMicroseconds(),
        published,
        skippedTicks: (pace?.report().skippedTicks ?? 0) + blockedTicks,
        wouldBlock,
        lastStamp,
        cpuMicroseconds,
      };
    },
  },
  async () => {
    publisher?.stop();
    for (const sampler of samplers) sampler.close();
    await bus?.close();
  },
);
