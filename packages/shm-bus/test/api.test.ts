import assert from "node:assert/strict";
import { channel } from "node:diagnostics_channel";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { Bus, type Codec, codecs, type Message, ShmBusError } from "../src/index.ts";
import { encode, eventually, failsWith, type Member, peersAre, scene, small } from "./harness.ts";
import { Inbox } from "./inbox.ts";
import { Watch } from "./watch.ts";

describe("messages", () => {
  scene("tell where they come from, where they went and when", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe(["g", bus.address]);
    assert.deepEqual(subscription.destinations, ["g", bus.address]);
    const before = Number(process.hrtime.bigint() / 1000n);
    const stamps = [
      bus.publish("g", encode("one"), { topic: 0xffff_ffff_ffff_fffen }),
      bus.publish(bus.address, encode("two"), { topic: 5n }),
    ];
    const after = Number(process.hrtime.bigint() / 1000n) + 1;
    const seen: object[] = [];
    const rows = subscription.poll((message) => {
      const { stamp, index, sender, group, topic, byteLength, time, copied } = message;
      assert.ok(time >= before && time <= after);
      assert.match(
        inspect(message),
        /Message \{ stamp: \d+, sender: '0:0', destination: '(g|0:0)', byteLength: 3 \}/,
      );
      seen.push({ stamp, index, sender, group, topic, byteLength, copied });
    });
    assert.equal(rows, 2);
    const common = { index: 0, sender: "0:0", byteLength: 3, copied: false };
    assert.deepEqual(seen, [
      { ...common, stamp: stamps[0], group: "g", topic: 0xffff_ffff_ffff_fffen },
      { ...common, stamp: stamps[1], group: undefined, topic: 5n },
    ]);
    assert.equal(subscription.lag, 0);
    assert.equal(subscription.position, (stamps[1] as number) + 1);
    assert.equal(subscription.violations, 0);
  });

  scene("of a batch are adjacent, have one stamp, and are all there or none", async (scene) => {
    const bus = await scene.attach();
    const other = await scene.join();
    const subscription = await bus.subscribe(["g", "h"]);
    const noise = other.call.publishAll(Array.from({ length: 200 }, (_, n) => ["g", `noise ${n}`]));
    const got: { stamp: number; index: number; text: string }[] = [];
    const decoder = new TextDecoder();
    const read = () =>
      subscription.poll(({ stamp, index, data }) =>
        got.push({ stamp, index, text: decoder.decode(Uint8Array.from(data)) }),
      );
    const stamps: number[] = [];
    while (stamps.length < 20) {
      read();
      try {
        const stamp = bus.batch(() => {
          for (let n = 0; n < 5; n++)
            assert.equal(bus.publish(n % 2 === 0 ? "g" : "h", encode(`batch ${n}`)), 0);
          assert.equal(bus.publish("g", "by codec", { codec: codecs.utf8 }), 0);
        });
        stamps.push(stamp);
      } catch (error) {
        failsWith("ERR_SHM_BUS_WOULD_BLOCK")(error);
        await bus.writable();
      }
    }
    const thrown = new Error("changed my mind");
    const failing = () =>
      bus.batch(() => {
        bus.publish("g", encode("never"));
        throw thrown;
      });
    assert.throws(failing, (error) => error === thrown);
    assert.equal(
      bus.batch(() => {}),
      0,
    );
    const noises: number[] = [];
    void noise.then((all) => noises.push(...all));
    while (noises.length === 0) {
      read();
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
    }
    while (read() > 0);
    const wanted = ["batch 0", "batch 1", "batch 2", "batch 3", "batch 4", "by codec"];
    for (const stamp of stamps) {
      const first = got.findIndex((one) => one.stamp === stamp);
      assert.deepEqual(
        got.slice(first, first + 6),
        wanted.map((text, index) => ({ stamp, index, text })),
      );
    }
    assert.equal(got.length, 200 + 20 * 6);
  });

  scene("of a transaction come to each reader once, with one stamp", async (scene) => {
    const bus = await scene.attach();
    const [one, two] = (await scene.joinMany(2)) as [Member, Member];
    await one.call.subscribe("all", ["g", "h", one.address]);
    await two.call.subscribe("all", ["h", two.address]);
    const stamp = bus.publish(["h", one.address, "g"], encode("transaction"));
    const last = bus.publish(["g", two.address], encode("last"));
    for (const [reader, destinations] of [
      [one, ["h", "g"]],
      [two, ["h", undefined]],
    ] as const) {
      const got = await reader.call.take("all", 2);
      assert.deepEqual(
        got.map((message) => [message.stamp, message.text, message.group]),
        [
          [stamp, "transaction", destinations[0]],
          [last, "last", destinations[1]],
        ],
      );
    }
  });

  scene("written in place are what their publisher wrote, and only that", async (scene) => {
    const bus = await scene.attach();
    const inbox = new Inbox(await bus.subscribe("g"));
    {
      using loan = bus.loan("g", 1000);
      loan.bytes.fill(7);
      assert.ok(loan.publish(10, 3n) > 0);
    }
    {
      using given = bus.loan("g", 1000);
      given.bytes.fill(8);
    }
    const first = bus.loan(["g", "*"], 4);
    const second = bus.loan("g", 4);
    second.bytes.fill(2);
    second.publish();
    first.bytes.fill(1);
    first.publish();
    bus.loan("g", 0).publish();
    const got = await inbox.take(4);
    assert.deepEqual(
      got.map(({ bytes, topic }) => [[...bytes], topic]),
      [
        [Array(10).fill(7), 3n],
        [[2, 2, 2, 2], 0n],
        [[1, 1, 1, 1], 0n],
        [[], 0n],
      ],
    );
  });

  scene("go through every codec and come back", async (scene) => {
    const bus = await scene.attach();
    const value = { text: "grüße 🚌", list: [1, 2.5, null], nested: { yes: true } };
    const rich = {
      when: new Date(5),
      map: new Map([[1, new Set(["a"])]]),
      big: 1n << 70n,
      bytes: Uint8Array.of(1, 2),
    };
    const upper: Codec<string> = {
      name: "upper",
      encode: (text, reserve) => codecs.utf8.encode(text.toUpperCase(), reserve),
      decode: (view) => codecs.utf8.decode(view).toLowerCase(),
    };
    const cases: [Codec<never>, unknown[]][] = [
      [codecs.bytes, [Uint8Array.of(1, 2, 3), new Uint8Array(0)]],
      [codecs.utf8, ["", "abc", "grüße 🚌", "\0"]],
      [codecs.json, [value, null, 5, "x", [], true]],
      [codecs.structured, [value, rich, undefined, null, "x"]],
      [upper, ["mixed case"]],
    ] as [Codec<never>, unknown[]][];
    for (const [codec, values] of cases) {
      const subscription = await bus.subscribe("g", { codec: codec as Codec<unknown> });
      for (const one of values) bus.publish("g", one, { codec: codec as Codec<unknown> });
      const got: unknown[] = [];
      subscription.poll((message) =>
        got.push(message.value instanceof Uint8Array ? message.copy() : message.value),
      );
      assert.deepEqual(got, values, codec.name);
      await subscription.close();
    }
    const json = await scene.attach("test", { codec: codecs.json });
    const inbox = await json.subscribe("g");
    json.publish("g", { a: 1 });
    json.publish("g", encode("2"), { codec: codecs.bytes });
    const got: unknown[] = [];
    inbox.poll((message) => got.push(message.value));
    assert.deepEqual(got, [{ a: 1 }, 2]);
    bus.publish("g", encode("{"));
    assert.throws(() => inbox.poll((message) => message.value), SyntaxError);
  });
});

describe("checked leases", () => {
  scene("deliver copies and find late uses", async (scene) => {
    const bus = await scene.attach("test", { checkLeases: true });
    const subscription = await bus.subscribe("g");
    const kept: { message: Message; data: Readonly<Uint8Array>; copy: Uint8Array }[] = [];
    bus.publish("g", encode("one"));
    subscription.poll((message) => {
      assert.equal(message.copied, true);
      assert.notEqual(message.data.buffer.byteLength, small.ringBytes);
      kept.push({ message, data: message.data, copy: message.copy() });
    });
    const [late] = kept;
    assert.equal(late?.data.length, 0);
    assert.equal(new TextDecoder().decode(late?.copy), "one");
    assert.throws(() => late?.message.data, failsWith("ERR_SHM_BUS_LEASE_ENDED"));
    bus.publish("g", encode("two"));
    bus.publish("g", encode("three"));
    const iterator = subscription[Symbol.asyncIterator]();
    const two = await iterator.next();
    const view = two.value?.data;
    assert.equal(view?.length, 3);
    const three = await iterator.next();
    assert.equal(three.value?.data.length, 5);
    const waiting = iterator.next();
    assert.equal(view?.length, 0);
    bus.publish("g", encode("end"));
    assert.equal((await waiting).value?.byteLength, 3);
  });
});

describe("subscriptions", () => {
  scene("are closed by leaving the loop", async (scene) => {
    const bus = await scene.attach();
    const watch = await Watch.begin(bus);
    const subscription = await bus.subscribe("g");
    for (const text of ["one", "two", "three"]) bus.publish("g", encode(text));
    const texts: string[] = [];
    for await (const message of subscription) {
      texts.push(new TextDecoder().decode(message.copy()));
      if (texts.length === 2) break;
    }
    assert.deepEqual(texts, ["one", "two"]);
    assert.equal(subscription.closed, true);
    await eventually(() => watch.seen.some(({ name, groups }) => name === "left" && groups?.join() === "g"));
    assert.deepEqual(bus.peers()[0]?.groups, []);
    bus.publish("g", encode("to nobody"));

    const thrown = new Error("out of the loop");
    const second = await bus.subscribe("g");
    bus.publish("g", encode("x"));
    const loop = async () => {
      for await (const message of second) throw Object.assign(thrown, { length: message.byteLength });
    };
    await assert.rejects(loop(), (error) => error === thrown);
    assert.equal(second.closed, true);

    const third = await bus.subscribe("g");
    const waiting = (async () => {
      const seen: number[] = [];
      for await (const { byteLength } of third) seen.push(byteLength);
      return seen;
    })();
    bus.publish("g", encode("x"));
    await third.close();
    assert.ok((await waiting).length <= 1);
  });

  scene("of one attachment each get everything", async (scene) => {
    const bus = await scene.attach();
    const inboxes = await Promise.all(
      Array.from({ length: 5 }, async () => new Inbox(await bus.subscribe("g"))),
    );
    const texts = Array.from({ length: 100 }, (_, n) => `${n}`);
    for (const text of texts) {
      bus.publish("g", encode(text));
      await inboxes[0]?.take(1);
    }
    for (const inbox of inboxes.slice(1)) assert.deepEqual(await inbox.texts(100), texts);
  });

  scene("end when their group is left and others keep theirs", async (scene) => {
    const bus = await scene.attach();
    const one = await bus.subscribe(["g", "h"]);
    const two = await bus.subscribe("g");
    await one.close();
    assert.deepEqual(bus.peers()[0]?.groups, ["g"]);
    const inbox = new Inbox(two);
    bus.publish("h", encode("nobody"));
    bus.publish("g", encode("somebody"));
    assert.deepEqual(await inbox.texts(1), ["somebody"]);
    await using third = await bus.subscribe("h");
    assert.equal(third.closed, false);
  });

  scene("whose handler throws go on with the next message", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g");
    const uncaught = new Promise<unknown>((resolve) => {
      const listeners = process.listeners("uncaughtException");
      process.removeAllListeners("uncaughtException");
      process.once("uncaughtException", (error) => {
        for (const listener of listeners) process.on("uncaughtException", listener);
        resolve(error);
      });
    });
    const thrown = new Error("from the handler");
    let calls = 0;
    const second = new Promise<void>((resolve) => {
      subscription.onMessages(() => {
        calls++;
        if (calls === 1) throw thrown;
        resolve();
      });
    });
    bus.publish("g", encode("one"));
    assert.equal(await uncaught, thrown);
    bus.publish("g", encode("two"));
    await second;
    assert.equal(calls, 2);
  });

  for (const wait of ["spin", "spin-then-park", "park"] as const) {
    scene(`wait by ${wait}`, async (scene) => {
      const bus = await scene.attach("test", { wait });
      const other = await scene.join();
      const inbox = new Inbox(await bus.subscribe(["g", bus.address]));
      await other.call.subscribe("g", "g");
      const relaying = other.call.relay("g", 50, bus.address);
      for (let n = 0; n < 50; n++) {
        bus.publish("g", encode(`${n}`));
        assert.deepEqual(await inbox.texts(2), [`${n}`, `re ${n}`]);
      }
      await relaying;
      const blocking = await bus.subscribe("h");
      assert.equal(blocking.wait(0), false);
      assert.equal(blocking.wait(20), false);
      bus.publish("h", encode("x"));
      assert.equal(blocking.wait(), true);
      assert.equal(
        blocking.poll(() => {}),
        1,
      );
    });
  }
});

describe("signals", () => {
  const reason = new Error("no longer needed");
  const isReason = (error: unknown) => error === reason;

  scene("end an attach that waits", async (scene) => {
    const stopped = await scene.join();
    await stopped.pause();
    try {
      const controller = new AbortController();
      const attaching = scene.attach("test", { signal: controller.signal, timeout: 500 });
      controller.abort(reason);
      await assert.rejects(attaching, isReason);
      await assert.rejects(scene.attach("test", { signal: AbortSignal.abort(reason) }), isReason);
    } finally {
      stopped.resume();
    }
    const bus = await scene.attach();
    // The one that was given up comes and goes, or never comes.
    await peersAre(bus, [stopped.address, bus.address]);
  });

  scene("end a subscribe and a createGroup that wait", async (scene) => {
    const master = await scene.join();
    const bus = await scene.attach();
    await master.pause();
    try {
      const controller = new AbortController();
      const { signal } = controller;
      const waiting = [bus.subscribe("g", { signal }), bus.createGroup("h", { signal })];
      controller.abort(reason);
      for (const one of waiting) await assert.rejects(one, isReason);
      await assert.rejects(bus.subscribe("g", { signal }), isReason);
      await assert.rejects(bus.createGroup("g", { signal }), isReason);
      const short = { timeout: 50 };
      await assert.rejects(bus.subscribe("i", short), failsWith("ERR_SHM_BUS_NO_MASTER"));
      await assert.rejects(bus.createGroup("i", short), failsWith("ERR_SHM_BUS_NO_MASTER"));
    } finally {
      master.resume();
    }
    const inbox = new Inbox(await bus.subscribe("g"));
    bus.publish("g", encode("x"));
    assert.deepEqual(await inbox.texts(1), ["x"]);
  });

  scene("end the wait for room", async (scene) => {
    const bus = await scene.attach();
    const slow = await scene.join();
    await slow.call.subscribe("g", "g", { deadline: 10_000 });
    let sent = 0;
    assert.throws(() => {
      for (; ; sent++) bus.publish("g", encode("x"));
    }, failsWith("ERR_SHM_BUS_WOULD_BLOCK"));
    const controller = new AbortController();
    const { signal } = controller;
    const waiting = bus.writable({ signal });
    controller.abort(reason);
    await assert.rejects(waiting, isReason);
    await assert.rejects(bus.writable({ signal }), isReason);
    const patient = bus.writable();
    await slow.call.take("g", sent);
    await patient;
    bus.publish("g", encode("x"));
  });
});

describe("events", () => {
  scene("tell who comes, joins, leaves and goes, in the order of their stamps", async (scene) => {
    const bus = await scene.attach();
    const events = await Watch.begin(bus);
    await bus.createGroup("known");
    const one = await scene.join();
    await one.call.subscribe("s", ["g", one.address]);
    await one.call.leave("s");
    const two = await scene.join();
    await one.end();
    await two.kill();
    await events.of({ name: "departed", address: one.address });
    await events.of({ name: "departed", address: two.address });
    const of = (address: string) => events.seen.filter((event) => event.address === address);
    assert.deepEqual(
      of(one.address).map(({ name }) => name),
      ["attached", "joined", "left", "departed"],
    );
    assert.deepEqual(
      of(two.address).map(({ name }) => name),
      ["attached", "departed"],
    );
    const [attached, joined, left, departed] = of(one.address);
    assert.deepEqual(
      [attached?.pid, attached?.uid, attached?.gid],
      [one.pid, process.getuid?.(), process.getgid?.()],
    );
    assert.deepEqual(
      [joined?.groups, left?.groups],
      [
        ["g", one.address],
        ["g", one.address],
      ],
    );
    assert.equal((departed as { reason?: string }).reason, "closed");
    assert.equal((of(two.address)[1] as { reason?: string }).reason, "died");
    const stamps = events.seen.map(({ stamp }) => stamp);
    assert.deepEqual(
      stamps,
      stamps.toSorted((a, b) => a - b),
    );
  });

  scene("are the same for everyone", async (scene) => {
    const watchers = await scene.joinMany(3);
    for (const one of watchers) await one.call.watch();
    // A first event that all of them see.
    const mark = await scene.attach();
    const bus = await scene.attach();
    await (await bus.subscribe("g")).close();
    await bus.close();
    const all = await Promise.all(
      watchers.map(async (one) => {
        const seen = await one.call.eventsUntil({ name: "departed", address: bus.address });
        return seen.slice(
          seen.findIndex(({ name, address }) => name === "attached" && address === bus.address),
        );
      }),
    );
    assert.deepEqual(
      all[0]?.map(({ name }) => name),
      ["attached", "joined", "left", "departed"],
    );
    for (const other of all.slice(1)) assert.deepEqual(other, all[0]);
    await mark.close();
  });

  scene("tell of a new master", async (scene) => {
    const first = await scene.join();
    const bus = await scene.attach();
    const events = await Watch.begin(bus);
    const inbox = new Inbox(await bus.subscribe("g"));
    await first.end();
    await events.of({ name: "master", address: bus.address });
    assert.equal(bus.isMaster, true);
    bus.publish("g", encode("on"));
    assert.deepEqual(await inbox.texts(1), ["on"]);
    await peersAre(bus, [bus.address]);
    assert.equal(bus.peers()[0]?.master, true);
  });

  scene("close is told once", async (scene) => {
    const bus = await scene.attach();
    let closes = 0;
    bus.on("close", () => closes++);
    await Promise.all([bus.close(), bus.close()]);
    await bus.close();
    assert.equal(closes, 1);
  });
});

describe("observing", () => {
  scene("counts what is published, delivered and refused", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g", { deadline: 10_000 });
    assert.deepEqual(bus.stats(), {
      published: 0,
      publishedBytes: 0,
      wouldBlock: 0,
      delivered: 0,
      violations: 0,
      missed: 0,
      sleeps: 0,
      lag: 0,
    });
    bus.publish("g", new Uint8Array(10));
    bus.publish("g", new Uint8Array(5));
    assert.equal(bus.stats().lag, 2);
    subscription.poll(() => {});
    let sent = 2;
    assert.throws(() => {
      for (; ; sent++) bus.publish("g", new Uint8Array(0));
    }, failsWith("ERR_SHM_BUS_WOULD_BLOCK"));
    const { published, publishedBytes, wouldBlock, delivered, violations } = bus.stats();
    assert.deepEqual(
      { published, publishedBytes, wouldBlock, delivered, violations },
      { published: sent, publishedBytes: 15, wouldBlock: 1, delivered: 2, violations: 0 },
    );
    const [self] = bus.peers();
    assert.deepEqual([self?.published, self?.delivered, self?.pid], [sent, 2, process.pid]);
    assert.match(inspect(bus), /Bus \{ name: 'test', address: '0:0', subscriptions: 1 \}/);
    assert.match(inspect(subscription), /Subscription \{ destinations: \[g\], position: \d+, lag: \d+ \}/);
  });

  scene("does not wake a quiet attachment for the messages of others", async (scene) => {
    const bus = await scene.attach();
    const quiet = await scene.join();
    await quiet.call.subscribe("quiet", "quiet");
    const waiting = quiet.call.take("quiet", 1);
    const busy = await scene.join();
    await busy.call.subscribe("busy", "busy");
    const { delivered } = await quiet.call.stats();
    const reading = busy.call.take("busy", 500);
    const before = (await quiet.call.stats()).sleeps;
    for (let n = 0; n < 500; n++) {
      for (;;) {
        try {
          bus.publish("busy", encode("x"));
          break;
        } catch (error) {
          assert.ok(error instanceof ShmBusError && error.code === "ERR_SHM_BUS_WOULD_BLOCK");
          await bus.writable();
        }
      }
    }
    await reading;
    const after = await quiet.call.stats();
    assert.equal(after.delivered, delivered);
    // Only where the ring was full of what it had yet to pass over.
    assert.ok(after.sleeps - before < 100, `${after.sleeps - before} sleeps for 500 messages of others`);
    bus.publish("quiet", encode("at last"));
    assert.equal((await waiting)[0]?.text, "at last");
  });

  scene("has channels for diagnostics", async (scene) => {
    const bus = await scene.attach();
    const seen: unknown[] = [];
    const listener = (message: unknown) => seen.push(message);
    const names = ["shm-bus:publish", "shm-bus:deliver"];
    const subscription = await bus.subscribe("g");
    for (const name of names) channel(name).subscribe(listener);
    let stamp: number;
    try {
      stamp = bus.publish("g", encode("x"));
      subscription.poll(() => {});
    } finally {
      for (const name of names) channel(name).unsubscribe(listener);
    }
    bus.publish("g", encode("y"));
    assert.deepEqual(seen, [
      { bus: "test", address: bus.address, stamp },
      { bus: "test", address: bus.address, count: 1 },
    ]);
  });

  it("ends with `await using`", async () => {
    const directory = mkdtempSync(join(tmpdir(), "shm-bus-"));
    let kept: Bus;
    {
      await using bus = await Bus.attach("test", { ...small, runtimeDirectory: directory });
      kept = bus;
      assert.equal(kept.closed, false);
    }
    assert.equal(kept.closed, true);
    rmdirSync(directory);
  });
});
