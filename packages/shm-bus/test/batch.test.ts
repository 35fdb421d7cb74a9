// A batch of any mixture of messages is what was put in, in that order, wherever it falls in the header array.
import assert from "node:assert/strict";

import * as fc from "fast-check";
import { codecs } from "../src/index.ts";
import { failsWith, scene, small } from "./harness.ts";

interface Item {
  readonly bytes: number;
  readonly to: "g" | "h" | "both";
  readonly how: "bytes" | "utf8" | "wrong";
  readonly topic: bigint;
}

const item: fc.Arbitrary<Item> = fc.record({
  // On both sides of what stands in a header.
  bytes: fc.oneof(fc.integer({ min: 0, max: 70 }), fc.integer({ min: 0, max: 300 })),
  to: fc.constantFrom("g", "g", "h", "both"),
  how: fc.constantFrom("bytes", "bytes", "bytes", "bytes", "utf8", "wrong"),
  topic: fc.oneof(fc.constant(0n), fc.bigInt(0n, 2n ** 64n - 1n)),
});

describe("a batch", () => {
  scene("is what was put in, whatever that is", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe(["g", "h"], { overload: "pinned" });
    const destinations = { g: "g", h: "h", both: ["h", "g"] };
    let round = 0;
    const property = (items: Item[], gives: boolean) => {
      round++;
      const wanted: { text: string; topic: bigint; group: string | undefined; index: number }[] = [];
      const thrown = new Error("not this one");
      const publishAll = () => {
        for (const { bytes, to, how, topic } of items) {
          const text = `${round}.${wanted.length} `.padEnd(bytes, "x").slice(0, bytes);
          if (how === "wrong") {
            // It is the program's affair to go on after an error.
            assert.throws(
              () => bus.publish("nobody", new Uint8Array(bytes)),
              failsWith("ERR_SHM_BUS_UNKNOWN_GROUP"),
            );
            continue;
          }
          const options = { topic };
          const stamp =
            how === "utf8"
              ? bus.publish(destinations[to], text, { ...options, codec: codecs.utf8 })
              : bus.publish(destinations[to], new TextEncoder().encode(text), options);
          assert.equal(stamp, 0);
          // Of a transaction, the first of the subscription's own.
          wanted.push({ text, topic, group: to === "both" ? "h" : to, index: wanted.length });
        }
        if (!gives) throw thrown;
      };
      let stamp = 0;
      if (gives) stamp = bus.batch(publishAll);
      else assert.throws(() => bus.batch(publishAll), thrown);
      const got: typeof wanted = [];
      const take = () =>
        subscription.poll((message) => {
          assert.equal(message.stamp, stamp);
          const { topic, group, index } = message;
          got.push({ text: new TextDecoder().decode(message.copy()), topic, group, index });
        });
      while (take() > 0);
      assert.deepEqual(got, gives ? wanted : []);
    };
    const batch = fc.array(item, { maxLength: small.headers - 4 });
    fc.assert(fc.property(batch, fc.boolean(), property), { numRuns: 300 });
  });

  scene("that finds no room for its headers is refused whole, and the next is not", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g", { overload: "pinned" });
    const put = (count: number) =>
      bus.batch(() => {
        for (let n = 0; n < count; n++) bus.publish("g", new Uint8Array([n]));
      });
    put(small.headers - 10);
    assert.throws(() => put(11), failsWith("ERR_SHM_BUS_WOULD_BLOCK"));
    put(10);
    assert.throws(() => put(1), failsWith("ERR_SHM_BUS_WOULD_BLOCK"));
    let got = 0;
    while (subscription.poll(() => got++) > 0);
    assert.equal(got, small.headers);
    put(small.headers);
    assert.throws(() => bus.batch(() => put(1)), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
  });

  scene("has at most 1024 messages", async (scene) => {
    const bus = await scene.attach("test", { headers: 4096, slots: 1 << 14, ringBytes: 1 << 20 });
    await bus.createGroup("g");
    const put = (count: number, bytes: number) => () =>
      bus.batch(() => {
        for (let n = 0; n < count; n++) bus.publish("g", new Uint8Array(bytes));
      });
    assert.ok(put(1024, 8)() > 0);
    assert.throws(put(1025, 8), failsWith("ERR_SHM_BUS_LIMIT"));
    assert.throws(put(1025, 65), failsWith("ERR_SHM_BUS_LIMIT"));
    assert.ok(put(3, 8)() > 0);
  });
});
