import assert from "node:assert/strict";
import { randomFill } from "node:crypto";
import { open } from "node:fs/promises";
import { MessageChannel } from "node:worker_threads";
import { type Bus, type Codec, codecs, type Message, type Subscription } from "../../src/index.ts";
import { encode, eventually, failsWith, publishSoon, scene, small } from "../harness.ts";
import { counts, report } from "./counts.ts";

/** What a program gets that ignores `Readonly`. */
const writable = (message: Message): Uint8Array => message.data as Uint8Array;
const textOf = (bytes: Readonly<Uint8Array>): string => new TextDecoder().decode(bytes.slice());

/** A sequence of numbers that is the same in every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Bytes that tell their number, each of them. */
function numbered(n: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = n * 31 + i;
  return bytes;
}

/** The messages of one iterator, one at a time: each is leased until the next is asked for. */
class Holder {
  readonly #iterator: AsyncIterator<Message, undefined>;
  held: Message | undefined;

  constructor(subscription: Subscription) {
    this.#iterator = subscription[Symbol.asyncIterator]();
  }

  async next(): Promise<Message> {
    this.held = (await this.#iterator.next()).value as Message;
    return this.held;
  }
}

const patient = { deadline: 10_000 };

describe("under fire: views", () => {
  describe("that are written to", () => {
    scene("show it to nobody else, and the page's next message is right", async (scene) => {
      const sender = await scene.join();
      const witness = await scene.join();
      await witness.call.subscribe("g", "g", patient);
      const bus = await scene.attach();
      const neighbour = await scene.attach();
      const subscription = await bus.subscribe("g", patient);
      const theirs = await neighbour.subscribe("g", patient);
      for (let n = 0; n < 40; n++) {
        await sender.call.publish("g", `first ${n}`);
        let copied: boolean | undefined;
        subscription.poll((message) => {
          copied = message.copied;
          const data = writable(message);
          data.fill(0x2a);
          assert.equal(textOf(data), "*".repeat(data.length), "its own program sees it");
          assert.equal(textOf(message.data), "*".repeat(data.length));
        });
        // With the last lease the page is shared again, so that this was no copy.
        assert.equal(copied, false);
        await sender.call.publish("g", `second ${n}`);
        subscription.poll((message) => assert.equal(textOf(message.data), `second ${n}`));
        const texts: string[] = [];
        theirs.poll((message) => texts.push(textOf(message.data)));
        assert.deepEqual(texts, [`first ${n}`, `second ${n}`]);
        const seen = await witness.call.take("g", 2);
        assert.deepEqual(
          seen.map(({ text }) => text),
          texts,
        );
      }
    });

    scene("while several messages of one page are leased", async (scene) => {
      const sender = await scene.join();
      const bus = await scene.attach();
      const [early, late] = [
        new Holder(await bus.subscribe("g", patient)),
        await bus.subscribe("g", patient),
      ];
      await sender.call.publishAll([
        ["g", "one"],
        ["g", "two"],
      ]);
      const one = await early.next();
      const oneAgain = one.data;
      late.poll((message) => {
        if (textOf(message.data) === "one") writable(message).fill(0x58);
      });
      assert.equal(textOf(oneAgain), "XXX", "both are views of one page");
      // One lease is left: what comes to that page is copied now.
      await sender.call.publish("g", "three");
      const texts: [string, boolean][] = [];
      late.poll((message) => texts.push([textOf(message.data), message.copied]));
      assert.deepEqual(texts, [["three", true]]);
      assert.equal(textOf((await early.next()).data), "two", "delivered with the first, from a private page");
      assert.equal(textOf((await early.next()).data), "three");
      // The iterator waits and holds nothing: the page is shared again.
      const waiting = early.next();
      late.poll(() => {});
      await sender.call.publish("g", "four");
      const four = await waiting;
      assert.deepEqual([textOf(four.data), four.copied], ["four", false]);
    });

    scene("at random, across the end of the ring, under several leases", async (scene) => {
      const random = numbers(1);
      const sender = await scene.attach();
      const bus = await scene.attach();
      const [polled, other] = [await bus.subscribe("g", patient), await bus.subscribe("g", patient)];
      const witness = await (await scene.attach()).subscribe("g", patient);
      const holder = new Holder(await bus.subscribe("g", patient));
      const sizes: number[] = [];
      const seen = { polled: 0, other: 0, holder: 0, witness: 0, copied: 0, stored: 0 };
      const read = (who: "polled" | "other" | "holder" | "witness", message: Message, mayStore: boolean) => {
        const n = seen[who]++;
        const data = writable(message);
        // What others of this attachment have written into a page that is leased is theirs to see.
        if (!storedInto.has(n) || message.copied) {
          assert.deepEqual(data.slice(), numbered(n, sizes[n] as number), `${who}: message ${n}`);
        }
        if (message.copied) seen.copied++;
        if (mayStore && random(3) === 0 && data.length > 0) {
          if (!message.copied) markPages(n);
          data.fill(random(256), random(data.length));
          seen.stored++;
        }
      };
      /** Messages that share a page with one that was written to, since the last moment without a lease. */
      const storedInto = new Set<number>();
      const markPages = (n: number) => {
        // All that are in the ring may share its pages.
        for (let other = n - 64; other <= n + 64; other++) storedInto.add(other);
      };
      for (let turns = 0; seen.witness < counts.stores; turns++) {
        assert.ok(turns < 4 * counts.stores, "nothing moves");
        for (let burst = 1 + random(12); burst > 0; burst--) {
          const size = random(4) === 0 ? random(16_000) : random(300);
          try {
            sender.publish("g", numbered(sizes.length, size));
            sizes.push(size);
          } catch (error) {
            failsWith("ERR_SHM_BUS_WOULD_BLOCK")(error);
            break;
          }
        }
        witness.poll((message) => read("witness", message, false));
        for (let turn = random(4); turn > 0; turn--) {
          const limit = 1 + random(8);
          polled.poll((message) => read("polled", message, true), limit);
          other.poll((message) => read("other", message, true), limit);
          if (seen.holder < sizes.length) read("holder", await holder.next(), true);
        }
        if (random(5) === 0) {
          // Nobody holds anything: from here on everything is shared and right.
          while (seen.holder < sizes.length) read("holder", await holder.next(), false);
          while (polled.poll((message) => read("polled", message, false)) > 0);
          while (other.poll((message) => read("other", message, false)) > 0);
          const pause = holder.next();
          await new Promise(setImmediate);
          storedInto.clear();
          const mark = sizes.length;
          sizes.push(7);
          await publishSoon(sender, "g", numbered(mark, 7));
          read("holder", await pause, false);
          assert.equal(holder.held?.copied, false);
        }
      }
      assert.ok(seen.stored > 0 && seen.copied > 0);
      report(`${seen.witness} messages, ${seen.stored} views written to, ${seen.copied} delivered as copies`);
    });

    scene("from threads of the system's pool, many at once", async (scene) => {
      const sender = await scene.attach();
      const bus = await scene.attach();
      const holder = new Holder(await bus.subscribe("g", patient));
      const subscription = await bus.subscribe("g", patient);
      const size = 4096;
      for (let round = 0; round < 20; round++) {
        for (let n = 0; n < 12; n++) sender.publish("g", numbered(n, size));
        await holder.next();
        const filled: Promise<unknown>[] = [];
        subscription.poll((message) => {
          const data = writable(message);
          filled.push(new Promise((resolve) => randomFill(data, resolve)));
        });
        assert.equal(filled.length, 12);
        await Promise.all(filled);
        for (let n = 1; n < 12; n++) await holder.next();
        const waiting = holder.next();
        await new Promise(setImmediate);
        sender.publish("g", numbered(99, size));
        const message = await waiting;
        assert.deepEqual([message.copied, message.copy()], [false, numbered(99, size)]);
        subscription.poll(() => {});
      }
    });

    scene("by the kernel: an error, and nothing has happened", async (scene) => {
      const sender = await scene.attach();
      const bus = await scene.attach();
      const subscription = await bus.subscribe("g", patient);
      sender.publish("g", encode("as it was"));
      const holder = new Holder(await bus.subscribe("g", patient));
      sender.publish("g", encode("as it is"));
      const message = await holder.next();
      await using file = await open("/dev/zero");
      await assert.rejects(file.read(writable(message), 0, 4), { code: "EFAULT" });
      assert.equal(textOf(message.data), "as it is");
      const texts: string[] = [];
      subscription.poll((one) => texts.push(textOf(one.data)));
      assert.deepEqual(texts, ["as it was", "as it is"]);
    });

    scene("with one warning for each thread", async (scene) => {
      await scene.run("fire/stores.ts", ["warnings"]).expect(0);
    });

    scene("beside WebAssembly, which has a fault handler too", async (scene) => {
      await scene.run("fire/stores.ts", ["webassembly"]).expect(0);
    });

    scene("a signal that tells of no store still ends the process", async (scene) => {
      await scene.run("fire/stores.ts", ["signal"]).expect("SIGSEGV");
      // It was the last one: what it leaves is found by the next.
      await scene.attach();
    });
  });

  describe("that are kept", () => {
    scene("past their lease have a length and bytes, whatever comes", async (scene) => {
      const sender = await scene.join();
      const bus = await scene.attach();
      const subscription = await bus.subscribe("g");
      const kept: Readonly<Uint8Array>[] = [];
      for (let n = 0; n < 200; n++) {
        await sender.call.publish("g", `${n}`.padEnd(1000, "."));
        subscription.poll((message) => kept.push(message.data));
        for (const view of kept) {
          assert.equal(view.length, 1000);
          assert.equal(typeof view[999], "number");
        }
      }
      // The sender goes: its memory is let go of with the next look at the bus.
      await sender.end();
      await eventually(() => {
        subscription.poll(() => {});
        return kept.every(({ length }) => length === 0);
      });
      await bus.close();
      assert.ok(kept.every((view) => view.length === 0 && view[0] === undefined));
    });

    scene("and written to after close: nothing happens", async (scene) => {
      const sender = await scene.attach();
      const bus = await scene.attach();
      const subscription = await bus.subscribe("g");
      sender.publish("g", encode("hello"));
      let view: Uint8Array | undefined;
      subscription.poll((message) => {
        view = writable(message);
      });
      const loan = bus.loan("g", 5);
      const { bytes } = loan;
      await bus.close();
      for (const closed of [view as Uint8Array, bytes]) {
        closed[0] = 1;
        assert.throws(() => closed.fill(1), TypeError);
        assert.deepEqual([closed.length, closed[0]], [0, undefined]);
      }
    });
  });

  describe("whose memory is carried away", () => {
    type Carry = (buffer: ArrayBuffer) => ArrayBuffer | undefined;

    /** Some versions of Node.js refuse, some copy, some carry the memory away: all the same to the bus. */
    const attempt = (carry: () => ArrayBuffer | undefined): ArrayBuffer | undefined => {
      try {
        return carry();
      } catch (error) {
        assert.equal((error as Error).name, "DataCloneError");
        return undefined;
      }
    };
    const ways: Record<string, Carry> = {
      "transfer()": (buffer) => (buffer as ArrayBuffer & { transfer?(): ArrayBuffer }).transfer?.(),
      "transfer() to fewer bytes": (buffer) =>
        (buffer as ArrayBuffer & { transfer?(length: number): ArrayBuffer }).transfer?.(100),
      "structuredClone()": (buffer) => structuredClone(buffer, { transfer: [buffer] }),
      "postMessage()"(buffer) {
        const { port1, port2 } = new MessageChannel();
        try {
          // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port, not a window
          port1.postMessage(buffer, [buffer]);
        } finally {
          port1.close();
          port2.close();
        }
        return undefined;
      },
    };

    /** Three messages, each carried away. */
    async function carryAway(sender: Bus, bus: Bus, carry: Carry): Promise<Uint8Array[]> {
      const subscription = await bus.subscribe("g", patient);
      const carried: Uint8Array[] = [];
      for (const text of ["one", "two", "three"]) {
        sender.publish("g", encode(text));
        const polled = subscription.poll((message) => {
          assert.equal(textOf(message.data), text);
          const { data } = message;
          const buffer = attempt(() => carry(data.buffer as ArrayBuffer));
          // Otherwise it is a copy.
          if (data.length === 0 && buffer !== undefined) carried.push(new Uint8Array(buffer));
        });
        assert.equal(polled, 1);
      }
      return carried;
    }

    /** A codec that carries the space away which it has filled. */
    const carrying = (carry: Carry): Codec<Uint8Array> => ({
      ...codecs.bytes,
      encode(value, reserve) {
        const space = reserve(value.length);
        space.set(value);
        attempt(() => carry(space.buffer as ArrayBuffer));
        return value.length;
      },
    });

    for (const [name, carry] of Object.entries(ways)) {
      scene(`by ${name}: the next message is read, and after close there are zeros`, async (scene) => {
        const sender = await scene.attach();
        const bus = await scene.attach();
        const carried = await carryAway(sender, bus, carry);
        const subscription = await bus.subscribe("g");
        sender.publish("g", encode("after"));
        subscription.poll((message) => {
          assert.equal(textOf(message.data), "after");
          writable(message).fill(0);
        });
        sender.publish("g", encode("and after"));
        subscription.poll((message) => assert.equal(textOf(message.data), "and after"));
        for (const view of carried) view.fill(1);
        await bus.close();
        // What was carried away to fewer bytes was copied.
        for (const view of carried) assert.ok(view.length === 100 || view.every((byte) => byte === 0));
        for (const view of carried) view.fill(1);
        const later = await scene.attach();
        await carryAway(sender, later, carry);
      });

      scene(`by ${name}: of a sender that goes`, async (scene) => {
        const sender = await scene.attach();
        const bus = await scene.attach();
        const carried = await carryAway(sender, bus, carry);
        const subscription = await bus.subscribe("g");
        await sender.close();
        const others = await scene.attach();
        others.publish("g", encode("here"));
        const texts: string[] = [];
        await eventually(() => {
          subscription.poll((message) => texts.push(textOf(message.data)));
          return texts.length === 1;
        });
        assert.deepEqual(texts, ["here"]);
        for (const view of carried) view.fill(1);
      });

      scene(`by ${name}: of a loan`, async (scene) => {
        const bus = await scene.attach();
        const subscription = await bus.subscribe("g", patient);
        for (let n = 0; n < 3 * small.headers; n++) {
          const loan = bus.loan("g", 4);
          loan.bytes.set(encode("loan"));
          attempt(() => carry(loan.bytes.buffer as ArrayBuffer));
          loan.publish(4);
          const next = bus.loan("g", 4);
          next.bytes.set(encode("next"));
          next.publish();
          bus.batch(() => {
            bus.publish("g", encode("batched"));
            const within = bus.publish("g", encode("in space"), { codec: carrying(carry) });
            assert.equal(within, 0);
            bus.publish("g", encode("batched too"));
          });
          const texts: string[] = [];
          subscription.poll((message) => texts.push(textOf(message.data)));
          assert.deepEqual(texts, ["loan", "next", "batched", "in space", "batched too"]);
          assert.ok(bus.stats().published > 0);
        }
      });
    }
  });
});
