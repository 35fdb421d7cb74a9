import assert from "node:assert/strict";
import {
  type Bus,
  type Codec,
  codecs,
  type Message,
  ShmBusError,
  type Subscription,
} from "../../src/index.ts";
import { encode, eventually, failsWith, scene, type Scene, small } from "../harness.ts";

const patient = { deadline: 10_000 };
const textOf = (message: Message<unknown>): string => new TextDecoder().decode(message.copy());

class Mine extends Error {}

/** A sender with a loan of everything that a reader could hold back, and the reader. */
async function pair(scene: Scene): Promise<{ sender: Bus; bus: Bus; subscription: Subscription }> {
  const [sender, bus] = [await scene.attach(), await scene.attach()];
  return { sender, bus, subscription: await bus.subscribe("g", patient) };
}

/** Sends many times what the ring holds: it stops where a lease or a loan was left behind. */
function flows(sender: Bus, subscription: Subscription<unknown>): void {
  while (subscription.poll(() => {}) > 0);
  for (let n = 0; n < 4 * small.headers; n++) {
    sender.publish("g", encode(`${n}`.padEnd(2000)));
    const texts: string[] = [];
    assert.equal(
      subscription.poll((message) => texts.push(textOf(message).trim())),
      1,
    );
    assert.deepEqual(texts, [`${n}`]);
  }
}

describe("under fire: handlers that throw", () => {
  scene("poll goes on with the message behind", async (scene) => {
    const { sender, subscription } = await pair(scene);
    const sent = Array.from({ length: 40 }, (_, n) => `${n}`);
    const seen: string[] = [];
    for (const text of sent) sender.publish("g", encode(text));
    let thrown = 0;
    const kept: Message[] = [];
    for (let polls = 0; polls < sent.length && seen.length < sent.length; polls++) {
      try {
        subscription.poll((message) => {
          kept.push(message);
          seen.push(textOf(message));
          if (seen.length % 3 === 0) throw new Mine();
        }, 7);
      } catch (error) {
        assert.ok(error instanceof Mine);
        thrown++;
      }
    }
    assert.deepEqual(seen, sent);
    assert.equal(thrown, 13);
    // Fetched with others, thrown at: all of them end.
    while (subscription.poll(() => {}) > 0);
    for (const message of kept) assert.throws(() => message.data, failsWith("ERR_SHM_BUS_LEASE_ENDED"));
    flows(sender, subscription);
  });

  scene("a limit counts what an earlier poll has left", async (scene) => {
    const { sender, subscription } = await pair(scene);
    for (let n = 0; n < 20; n++) sender.publish("g", encode(`${n}`));
    assert.throws(() =>
      subscription.poll(() => {
        throw new Mine();
      }),
    );
    const seen: string[] = [];
    const read = (limit: number) => subscription.poll((message) => seen.push(textOf(message)), limit);
    assert.deepEqual([read(5), read(5), read(100), read(100)], [5, 5, 9, 0]);
    assert.deepEqual(
      seen,
      Array.from({ length: 19 }, (_, n) => `${n + 1}`),
    );
  });

  scene("what poll has left is leased until the subscription is closed", async (scene) => {
    const { sender, bus, subscription } = await pair(scene);
    const other = await bus.subscribe("g", patient);
    sender.publish("g", encode("one"));
    sender.publish("g", encode("two"));
    const throwing = () =>
      subscription.poll(() => {
        throw new Mine();
      });
    assert.throws(throwing, Mine);
    await subscription.close();
    flows(sender, other);
  });

  scene("a handler that polls, waits or closes within poll", async (scene) => {
    const { sender, bus, subscription } = await pair(scene);
    for (let n = 0; n < 10; n++) sender.publish("g", encode(`${n}`));
    const seen: string[] = [];
    subscription.poll((message) => {
      for (const use of [
        () => subscription.poll(() => {}),
        () => subscription.onMessages(() => {}),
        () => subscription[Symbol.asyncIterator](),
        () => subscription.wait(0),
      ]) {
        assert.throws(use, failsWith("ERR_SHM_BUS_IN_USE"));
      }
      seen.push(textOf(message));
    });
    assert.equal(seen.length, 10);
    const other = await bus.subscribe("g", patient);
    for (let n = 0; n < 10; n++) sender.publish("g", encode(`${n}`));
    let closing: Promise<void> | undefined;
    const polled = subscription.poll(() => {
      closing = subscription.close();
    });
    assert.equal(polled, 1, "after close it gets no more");
    await closing;
    flows(sender, other);
  });

  scene("the body of a for await: its subscription is closed, others go on", async (scene) => {
    const { sender, bus, subscription } = await pair(scene);
    const other = await bus.subscribe("g", patient);
    for (let n = 0; n < 10; n++) sender.publish("g", encode(`${n}`));
    const seen: string[] = [];
    const loop = async () => {
      for await (const message of subscription) {
        seen.push(textOf(message));
        if (seen.length === 3) throw new Mine();
      }
    };
    await assert.rejects(loop(), Mine);
    assert.deepEqual([seen, subscription.closed], [["0", "1", "2"], true]);
    flows(sender, other);
    // One that begins anew misses nothing from then on.
    const next = await bus.subscribe("g", patient);
    sender.publish("g", encode("next"));
    assert.equal(textOf((await next[Symbol.asyncIterator]().next()).value as Message), "next");
  });

  scene("a listener of gaps: every gap is told, and every message behind it comes", async (scene) => {
    const [sender, bus] = [await scene.attach(), await scene.attach()];
    const subscription = await bus.subscribe("g", { overload: "lossy" });
    let told = 0;
    bus.on("gap", ({ stamp, until }) => {
      told += until - stamp;
      throw new Mine();
    });
    let thrown = 0;
    let last = -1;
    for (let round = 0; round < 10; round++) {
      for (let n = 0; n < 3 * small.headers; n++) sender.publish("g", encode(`${n}`));
      const seen: number[] = [];
      for (let polls = 0; polls < 3 * small.headers; polls++) {
        try {
          subscription.poll((message) => {
            assert.ok(message.stamp > last);
            last = message.stamp;
            seen.push(Number(textOf(message)));
          });
        } catch (error) {
          assert.ok(error instanceof Mine);
          thrown++;
        }
      }
      assert.ok(seen.length > 0);
      assert.deepEqual(
        seen,
        seen.map((_, n) => 3 * small.headers - seen.length + n),
      );
    }
    assert.ok(thrown >= 10);
    assert.equal(told, subscription.missed);
    // One that closes its subscription from there ends its loop.
    bus.removeAllListeners("gap");
    const iterated = await bus.subscribe("g", { overload: "lossy" });
    bus.on("gap", () => void iterated.close());
    for (let n = 0; n < 3 * small.headers; n++) sender.publish("g", encode(`${n}`));
    for await (const message of iterated) assert.fail(`${message.stamp} came after close`);
  });

  scene("a codec that throws: nothing is published, and no space is lost", async (scene) => {
    const { sender, subscription } = await pair(scene);
    const failing = (asks: number, writes: number): Codec<string> => ({
      name: "failing",
      encode(_value, reserve) {
        const bytes = reserve(asks);
        bytes.fill(0x21);
        if (writes < 0) throw new Mine();
        return writes;
      },
      decode() {
        throw new Mine();
      },
    });
    const before = sender.stats().published;
    for (let n = 0; n < 4 * small.headers; n++) {
      assert.throws(() => sender.publish("g", "x", { codec: failing(2000, -1) }), Mine);
      assert.throws(
        () => sender.publish("g", "x", { codec: failing(2000, 2001) }),
        failsWith("ERR_SHM_BUS_INVALID_OPTION"),
      );
      assert.throws(
        () => sender.publish("g", () => {}, { codec: codecs.json }),
        failsWith("ERR_SHM_BUS_INVALID_DATA"),
      );
      assert.throws(() => sender.publish("g", () => {}, { codec: codecs.structured }), /could not be cloned/);
    }
    assert.equal(sender.stats().published, before);
    flows(sender, subscription);
  });

  scene("a codec that cannot decode: the message is there, and the next one comes", async (scene) => {
    const [sender, bus] = [await scene.attach(), await scene.attach()];
    const subscription = await bus.subscribe("g", { ...patient, codec: codecs.json });
    const sent = Array.from({ length: 30 }, (_, n) => (n % 3 === 0 ? "{" : `${n}`));
    for (const text of sent) sender.publish("g", encode(text));
    const seen: unknown[] = [];
    let failed = 0;
    for (let polls = 0; polls < 2 * sent.length; polls++) {
      try {
        subscription.poll((message) => {
          seen.push(textOf(message));
          assert.equal(message.value, seen.length - 1);
        });
      } catch (error) {
        assert.ok(error instanceof SyntaxError);
        failed++;
      }
    }
    assert.deepEqual(seen, sent);
    assert.equal(failed, 10);
    flows(sender, subscription);
  });

  scene("a batch that throws: nothing of it is published, and no space is lost", async (scene) => {
    const { sender, subscription } = await pair(scene);
    const failing: Codec<string> = {
      ...codecs.utf8,
      encode(_value, reserve) {
        reserve(100);
        throw new Mine();
      },
    };
    for (let n = 0; n < 2 * small.headers; n++) {
      const batch = () =>
        sender.batch(() => {
          for (let m = 0; m < 10; m++) sender.publish("g", encode(`${n} ${m}`));
          assert.throws(() => sender.publish("g", "", { codec: failing }), Mine);
          assert.throws(() => sender.batch(() => {}), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
          throw new Mine();
        });
      assert.throws(batch, Mine);
    }
    assert.equal(sender.stats().published, 0);
    // What one message of it fails with is the program's to judge: the others are published.
    const stamp = sender.batch(() => {
      sender.publish("g", encode("first"));
      assert.throws(() => sender.publish("g", "", { codec: failing }), Mine);
      assert.throws(() => sender.publish("nobody", encode("x")), failsWith("ERR_SHM_BUS_UNKNOWN_GROUP"));
      sender.publish("g", encode("last"));
    });
    const seen: [string, number, number][] = [];
    subscription.poll((message) => seen.push([textOf(message), message.stamp, message.index]));
    assert.deepEqual(seen, [
      ["first", stamp, 0],
      ["last", stamp, 1],
    ]);
    flows(sender, subscription);
  });

  scene("a codec that publishes: all of it is there, in a batch too", async (scene) => {
    const { sender, subscription } = await pair(scene);
    const announcing: Codec<string> = {
      ...codecs.utf8,
      encode(value, reserve) {
        const bytes = reserve(100);
        for (let n = 0; n < 3; n++) sender.publish("g", encode(`${value} ${n}`));
        if (value === "mine") throw new Mine();
        return new TextEncoder().encodeInto(value, bytes).written;
      },
    };
    const all = ["a", "a 0", "a 1", "a 2", "b", "b 0", "b 1", "b 2", "mine 0", "mine 1", "mine 2", "end"];
    for (const value of ["a", "b"]) sender.publish("g", value, { codec: announcing });
    assert.throws(() => sender.publish("g", "mine", { codec: announcing }), Mine);
    sender.publish("g", encode("end"));
    const seen: string[] = [];
    while (subscription.poll((message) => seen.push(textOf(message))) > 0);
    assert.deepEqual(seen.toSorted(), all.toSorted());
    flows(sender, subscription);
  });

  scene("a batch that is asked for what would part its messages refuses it, and goes on", async (scene) => {
    const { sender, subscription } = await pair(scene);
    const inUse = failsWith("ERR_SHM_BUS_IN_USE");
    let asked = 0;
    const publishing: Codec<string> = {
      ...codecs.utf8,
      encode(value, reserve) {
        const bytes = reserve(100);
        const again = { codec: codecs.utf8 };
        for (const publish of [
          () => sender.publish("g", encode("within")),
          () => sender.publish("g", "within", again),
          () => sender.publish("g", new Uint8Array(1000)),
          () => sender.loan("g", 1),
          () => sender.batch(() => {}),
        ]) {
          assert.throws(publish, (error: unknown) => {
            asked++;
            return error instanceof ShmBusError && error.code !== "ERR_SHM_BUS_WOULD_BLOCK";
          });
        }
        if (value === "mine") throw new Mine();
        return new TextEncoder().encodeInto(value, bytes).written;
      },
    };
    for (const [first, last] of [
      [() => {}, () => {}],
      [() => sender.publish("g", encode("first")), () => sender.publish("g", encode("last"))],
    ] as const) {
      const loan = sender.loan("g", 4);
      loan.bytes.set(encode("loan"));
      const other = sender.loan("g", 4);
      sender.batch(() => {
        first();
        assert.throws(() => loan.publish(), inUse);
        sender.publish("g", "encoded", { codec: publishing });
        assert.throws(() => sender.publish("g", "mine", { codec: publishing }), Mine);
        other[Symbol.dispose]();
        last();
      });
      loan.publish();
    }
    assert.equal(asked, 20);
    const seen: string[] = [];
    subscription.poll((message) => seen.push(textOf(message)));
    assert.deepEqual(seen, ["encoded", "loan", "first", "encoded", "last", "loan"]);
    flows(sender, subscription);
  });

  scene("a batch or a codec that closes the bus fails with its own error", async (scene) => {
    const { sender } = await pair(scene);
    const closing = () =>
      sender.batch(() => {
        sender.publish("g", encode("x"));
        void sender.close();
        throw new Mine();
      });
    assert.throws(closing, Mine);
    const second = await scene.attach();
    const codec: Codec<string> = {
      ...codecs.utf8,
      encode(value, reserve) {
        const bytes = reserve(10);
        void second.close();
        return bytes.length - value.length;
      },
    };
    assert.throws(() => second.publish("g", "x", { codec }), failsWith("ERR_SHM_BUS_CLOSED"));
    const third = await scene.attach();
    const quiet = () =>
      third.batch(() => {
        third.publish("g", encode("x"));
        void third.close();
      });
    assert.throws(quiet, failsWith("ERR_SHM_BUS_CLOSED"));
  });

  scene("a handler that ends its delivery leaves nothing leased", async (scene) => {
    const { sender, bus, subscription } = await pair(scene);
    for (let n = 0; n < 10; n++) sender.publish("g", encode(`${n}`));
    const seen = await new Promise<number>((resolve) => {
      const stop = subscription.onMessages((batch) => {
        stop();
        resolve(batch.length);
      });
    });
    assert.equal(seen, 10);
    await eventually(() => bus.stats().lag === 0);
    flows(sender, subscription);
  });

  for (const kind of [
    "onMessages",
    "poll, then onMessages",
    "onMessages of another subscription",
    "listeners",
    "evicted",
  ]) {
    scene(`into the event loop: ${kind}`, async (scene) => {
      await scene.run("fire/throws.ts", [kind]).expect(0);
    });
  }
});
