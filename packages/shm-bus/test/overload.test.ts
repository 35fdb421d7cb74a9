// What a slow reader costs, and what it learns, as JavaScript meets it. The core's own tests try all policies harder.
import assert from "node:assert/strict";

import { type BusEvents, type Overload, ShmBusError, type Subscription } from "../src/index.ts";
import { failsWith, scene } from "./harness.ts";

const encode = (text: string) => new TextEncoder().encode(text);

/** Publishes numbers until there is no room, at most `count`; how many found room. */
function fill(bus: { publish(to: string, value: Uint8Array): number }, count: number): number {
  for (let n = 0; n < count; n++) {
    try {
      bus.publish("g", encode(`${n}`));
    } catch (error) {
      failsWith("ERR_SHM_BUS_WOULD_BLOCK")(error);
      return n;
    }
  }
  return count;
}

function pollAll(subscription: Subscription): string[] {
  const texts: string[] = [];
  while (subscription.poll((message) => texts.push(new TextDecoder().decode(message.copy()))) > 0);
  return texts;
}

describe("overload", () => {
  scene("pinned: publishers wait, and nothing is lost", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g", { overload: "pinned" });
    const sent = fill(bus, 10_000);
    assert.ok(sent < 10_000);
    const short = AbortSignal.timeout(300);
    await assert.rejects(bus.writable({ signal: short }), { name: "TimeoutError" });
    const writable = bus.writable();
    assert.deepEqual(
      pollAll(subscription),
      Array.from({ length: sent }, (_, n) => `${n}`),
    );
    await writable;
    assert.equal(fill(bus, 1), 1);
  });

  scene("lossy: nobody waits, and the gaps are told exactly, before what is behind them", async (scene) => {
    const bus = await scene.attach();
    const gaps: BusEvents["gap"][0][] = [];
    bus.on("gap", (gap) => gaps.push(gap));
    const subscription = await bus.subscribe("g", { overload: "lossy" });
    let next = subscription.position;
    const stamps: number[] = [];
    let told = 0;
    for (let round = 0; round < 20; round++) {
      assert.equal(fill(bus, 1000), 1000);
      const poll = () =>
        subscription.poll((message) => {
          if (gaps.length > told) {
            for (const gap of gaps.slice(told)) {
              assert.equal(gap.stamp, next);
              assert.equal(gap.subscription, subscription);
              next = gap.until;
            }
            told = gaps.length;
          }
          assert.equal(message.stamp, next++);
          stamps.push(message.stamp);
        });
      while (poll() > 0);
    }
    const missed = gaps.reduce((sum, { stamp, until }) => sum + until - stamp, 0);
    assert.ok(missed > 0 && stamps.length > 0);
    assert.equal(missed + stamps.length, 20_000);
    assert.equal(subscription.missed, missed);
    assert.equal(bus.stats().missed, missed);
  });

  scene("lossy: what is delivered is a copy that nobody overwrites", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g", { overload: "lossy" });
    bus.publish("g", encode("kept"));
    let view: Readonly<Uint8Array> | undefined;
    subscription.poll((message) => {
      view = message.data;
      assert.equal(fill(bus, 5000), 5000);
      assert.equal(new TextDecoder().decode(message.data as Uint8Array), "kept");
    });
    assert.ok(view);
  });

  scene("evict: nobody waits, and it is told the first stamp it lost", async (scene) => {
    const bus = await scene.attach();
    const evicted = new Promise<BusEvents["evicted"][0]>((resolve) => bus.once("evicted", resolve));
    const subscription = await bus.subscribe("g", { overload: "evict" });
    const { position } = subscription;
    assert.equal(fill(bus, 1000), 1000);
    assert.throws(
      () => subscription.poll(() => {}),
      (error) =>
        error instanceof ShmBusError && error.code === "ERR_SHM_BUS_EVICTED" && error.stamp === position,
    );
    assert.equal((await evicted).stamp, position);
  });

  scene("evict: at a lag of its choice", async (scene) => {
    const bus = await scene.attach("test", { headers: 1024 });
    const subscription = await bus.subscribe("g", { maxLag: 40 });
    fill(bus, 40);
    assert.equal(pollAll(subscription).length, 40);
    fill(bus, 60);
    assert.throws(() => subscription.poll(() => {}), failsWith("ERR_SHM_BUS_EVICTED"));
  });

  scene("of one attachment is one for all subscriptions that count", async (scene) => {
    const bus = await scene.attach();
    await bus.subscribe("g", { overload: "block", deadline: 500 });
    for (const overload of ["pinned", "evict", "block"] as Overload[]) {
      await assert.rejects(bus.subscribe("h", { overload }), (error) => {
        failsWith("ERR_SHM_BUS_INVALID_OPTION")(error);
        return /'block' with a deadline of 500 ms/.test((error as Error).message);
      });
    }
    await (await bus.subscribe("h", { deadline: 500 })).close();
    await (await bus.subscribe("h")).close();
    await (await bus.subscribe("h", { overload: "lossy" })).close();
  });
});
