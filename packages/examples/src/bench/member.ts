/** A JavaScript process of a measurement: attaches, waits for the others, does its part, says what it measured. */
import { Bus, type Message, ShmBusError, type Subscription } from "shm-bus";

import type { AskResult, FromMember, PublishResult, ReadResult, Result, Task, ToMember } from "./task.ts";

const bytes = 64;
const group = "bench";
/** The first byte of the message that ends a round-trip measurement. */
const stop = 0xff;
/** Messages between two looks at the publisher's clock, about. */
const look = 64;
/** On a busy machine nobody is to lose its place. Milliseconds. */
const deadline = 10_000;

const tell = (message: FromMember) => process.send?.(message);

function nextOrder(): Promise<ToMember> {
  return new Promise((resolve) => process.once("message", (message) => resolve(message as ToMember)));
}

/** Processors in use since it was made. */
class Usage {
  readonly start = performance.now();
  readonly #cpu = process.cpuUsage();

  get micros(): number {
    const { user, system } = process.cpuUsage(this.#cpu);
    return user + system;
  }

  get cores(): number {
    return this.micros / 1000 / Math.max(performance.now() - this.start, 1e-6);
  }
}

/** Polls until a message was there; returns its first byte. */
function receive(subscription: Subscription): number {
  let first = 0;
  const take = (message: Message) => {
    first = message.data[0] as number;
  };
  while (subscription.poll(take, 1) === 0);
  return first;
}

function ask(bus: Bus, subscription: Subscription, task: Task): AskResult {
  const { warmUpMilliseconds: warmUp, milliseconds } = task;
  const data = new Uint8Array(bytes);
  const times: number[] = [];
  const begun = performance.now();
  let usage: Usage | undefined;
  for (let end = begun; end < begun + warmUp + milliseconds || times.length < 10;) {
    const start = performance.now();
    bus.publish("ping", data);
    receive(subscription);
    end = performance.now();
    if (end > begun + warmUp) {
      usage ??= new Usage();
      times.push(end - start);
    }
    // Anything but the number that ends it.
    data[0] = times.length % 200;
  }
  const cpuMicros = usage?.micros ?? 0;
  data[0] = stop;
  bus.publish("ping", data);
  receive(subscription);
  const sorted = Float64Array.from(times).sort();
  const at = (quantile: number) => (sorted[Math.floor(quantile * (sorted.length - 1))] as number) * 1e6;
  return { trips: times.length, ns: at(0.5), ns99: at(0.99), ns999: at(0.999), cpuMicros };
}

function answer(bus: Bus, subscription: Subscription): void {
  const data = new Uint8Array(bytes);
  while (data[0] !== stop) {
    data[0] = receive(subscription);
    bus.publish("pong", data);
  }
}

async function publish(bus: Bus, task: Task & { role: "publish" }): Promise<PublishResult> {
  const { batch, warmUpMilliseconds: warmUp, milliseconds } = task;
  const data = new Uint8Array(bytes);
  data[4] = task.index;
  let next = 0;
  let wouldBlock = 0;
  const publishOne = () => {
    data[0] = next;
    data[1] = next >>> 8;
    data[2] = next >>> 16;
    data[3] = next >>> 24;
    bus.publish(group, data);
    next++;
  };
  const fill = () => {
    for (let count = 0; count < batch; count++) publishOne();
  };
  const publishBatch = () => {
    const first = next;
    try {
      bus.batch(fill);
    } catch (error) {
      // Nothing of it was published.
      next = first;
      throw error;
    }
  };
  const publishPatiently = async (times: number, publishNext: () => void) => {
    for (let done = 0; done < times;) {
      try {
        for (; done < times; done++) publishNext();
      } catch (error) {
        if (!(error instanceof ShmBusError && error.code === "ERR_SHM_BUS_WOULD_BLOCK")) throw error;
        wouldBlock++;
        await bus.writable();
      }
    }
  };

  const begun = performance.now();
  let usage: Usage | undefined;
  for (let now = begun; now < begun + warmUp + milliseconds; now = performance.now()) {
    if (now > begun + warmUp) usage ??= new Usage();
    await publishPatiently(Math.ceil(look / batch), batch === 1 ? publishOne : publishBatch);
  }
  const cores = usage?.cores ?? 0;
  const published = next;
  data[5] = 1;
  await publishPatiently(1, publishOne);
  return { published, wouldBlock, cores };
}

function read(subscription: Subscription, task: Task & { role: "read" }): ReadResult {
  const { publishers, crowded, warmUpMilliseconds: warmUp } = task;
  const next = new Uint32Array(publishers);
  const seen = { delivered: 0, wrong: 0, ended: 0 };
  const take = (message: Message) => {
    const data = message.data as Uint8Array;
    const number =
      ((data[0] as number) |
        ((data[1] as number) << 8) |
        ((data[2] as number) << 16) |
        ((data[3] as number) << 24)) >>>
      0;
    const publisher = data[4] as number;
    if (next[publisher] !== number) seen.wrong++;
    next[publisher] = number + 1;
    if (data[5] === 0) seen.delivered++;
    else seen.ended++;
  };
  let begun: number | undefined;
  let window: { usage: Usage; before: number } | undefined;
  let measured: { perSecond: number; cores: number } | undefined;
  while (seen.ended < publishers) {
    if (subscription.poll(take) === 0) {
      // Without a processor of its own it must let the others run.
      if (crowded) subscription.wait(10);
      continue;
    }
    const now = performance.now();
    begun ??= now;
    if (window === undefined) {
      if (now > begun + warmUp) window = { usage: new Usage(), before: seen.delivered };
    } else if (seen.ended > 0 && measured === undefined) {
      const { usage, before } = window;
      measured = { perSecond: ((seen.delivered - before) / (now - usage.start)) * 1000, cores: usage.cores };
    }
  }
  // A measurement too short for a warm-up counts as a whole.
  measured ??= { perSecond: (seen.delivered / (performance.now() - (begun ?? 0))) * 1000, cores: 1 };
  const { delivered, wrong } = seen;
  return { delivered, wrong, ...measured };
}

async function work(bus: Bus, task: Task): Promise<() => Result | Promise<Result>> {
  switch (task.role) {
    case "ask": {
      const subscription = await bus.subscribe("pong", { deadline });
      return () => ask(bus, subscription, task);
    }
    case "answer": {
      const subscription = await bus.subscribe("ping", { deadline });
      return () => {
        answer(bus, subscription);
        return {};
      };
    }
    case "publish":
      return () => publish(bus, task);
    case "read": {
      const subscription = await bus.subscribe(group, { deadline });
      return () => read(subscription, task);
    }
  }
}

// The driver is gone: nobody wants the rest.
process.on("disconnect", () => process.exit());
const order = await nextOrder();
if (typeof order !== "object") throw new Error("expected a task first");
const { task } = order;
const bus = await Bus.attach("bench", {
  runtimeDirectory: task.directory,
  wait: task.crowded ? "spin-then-park" : "spin",
});
const part = await work(bus, task);
tell({ ready: true });
await nextOrder();
tell({ result: await part() });
await nextOrder();
await bus.close();
process.disconnect();
