import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { BusEvents } from "../src/index.ts";
import {
  encode,
  failsWith,
  type Member,
  peersAre,
  publishSoon,
  scene,
  type Scene,
  small,
} from "./harness.ts";
import { Inbox } from "./inbox.ts";
import type { WorkerTask } from "./fixtures/worker.ts";
import { Watch } from "./watch.ts";

/** Starts a worker with an attachment of its own: the worker, and its address. */
async function startWorker(
  scene: Scene,
  kind: WorkerTask["kind"],
): Promise<{ worker: Worker; address: string }> {
  const options = { ...small, runtimeDirectory: scene.directory };
  const worker = new Worker(new URL("fixtures/worker-entry.mjs", import.meta.url), {
    workerData: { name: "test", options, kind } satisfies WorkerTask,
  });
  const [address] = (await once(worker, "message")) as [string];
  return { worker, address };
}

describe("lifetime", () => {
  describe("views", () => {
    scene("have length 0 after close", async (scene) => {
      const other = await scene.join();
      const bus = await scene.attach();
      const handled = await bus.subscribe("g");
      const polled = await bus.subscribe("g");
      const views: Readonly<Uint8Array>[] = [];
      const arrived = new Promise<void>((resolve) => {
        handled.onMessages((batch) => {
          for (const message of batch) views.push(message.data);
          if (views.length === 2) resolve();
        });
      });
      await other.call.publish("g", "from another");
      bus.publish("g", encode("from here"));
      await arrived;
      polled.poll((message) => views.push(message.data));
      const loan = bus.loan("g", 10);
      views.push(loan.bytes);
      assert.deepEqual(
        views.map(({ length }) => length),
        [12, 9, 12, 9, 10],
      );
      await bus.close();
      for (const view of views) {
        assert.equal(view.length, 0);
        assert.equal(view[0], undefined);
      }
    });

    scene("of a sender that leaves at once are whole", async (scene) => {
      const bus = await scene.attach();
      const subscription = await bus.subscribe("g");
      const late = await bus.subscribe("g");
      const decoder = new TextDecoder();
      const texts: string[] = [];
      const gotLate: string[] = [];
      for (let n = 0; n < 3; n++) {
        const sender = await scene.join();
        const sent = Array.from({ length: 20 }, (_, i) => `message ${i} of ${n}`);
        await sender.call.publishAll(sent.map((text) => ["g", text]));
        await sender.end();
        texts.push(...sent);
        // The messages and the departure come in one poll.
        const got: string[] = [];
        while (got.length < sent.length)
          subscription.poll((message) => got.push(decoder.decode(message.copy())));
        assert.deepEqual(got, sent);
        // The other subscription has looked at one of them.
        if (n === 0) late.poll((message) => gotLate.push(decoder.decode(message.copy())), 1);
        while (subscription.poll(() => {}) > 0);
      }
      while (gotLate.length < texts.length)
        late.poll((message) => gotLate.push(decoder.decode(message.copy())), 7);
      assert.deepEqual(gotLate, texts);
    });

    scene("of one subscription stay while another one goes on", async (scene) => {
      const bus = await scene.attach();
      const slow = (await bus.subscribe("g"))[Symbol.asyncIterator]();
      const quick = await bus.subscribe("g");
      const sender = await scene.join();
      await sender.call.publishAll([
        ["g", "one"],
        ["g", "two"],
      ]);
      await sender.end();
      const first = await slow.next();
      while (quick.poll(() => {}) > 0);
      bus.publish("g", encode("three"));
      while (quick.poll(() => {}) > 0);
      const decoder = new TextDecoder();
      assert.equal(decoder.decode(first.value?.copy()), "one");
      assert.equal(decoder.decode((await slow.next()).value?.copy()), "two");
      assert.equal(decoder.decode((await slow.next()).value?.copy()), "three");
    });
  });

  for (const wait of ["spin", "park"] as const) {
    scene(`what does not keep the process alive is delivered while it lives: ${wait}`, async (scene) => {
      const bus = await scene.attach("test", { wait });
      const subscription = (await bus.subscribe("g")).unref();
      const arrivals: (() => void)[] = [];
      subscription.onMessages(() => arrivals.shift()?.());
      for (let n = 0; n < 200; n++) {
        // Nothing else wakes the loop but, every few seconds, the collector, and in the end the test's deadline.
        const arrived = new Promise<void>((resolve) => arrivals.push(resolve));
        bus.publish("g", encode(`${n}`));
        await arrived;
      }
    });
  }

  describe("worker threads", () => {
    scene("attach at the same time, wait and answer", async (scene) => {
      const bus = await scene.attach();
      const inbox = new Inbox(await bus.subscribe(bus.address));
      const workers = await Promise.all(Array.from({ length: 4 }, () => startWorker(scene, "echo")));
      const addresses = workers.map(({ address }) => address);
      assert.equal(new Set(addresses).size, 4);
      for (let n = 0; n < 50; n++) {
        bus.publish("work", encode(`${n}`));
        const got = await inbox.texts(4);
        assert.deepEqual(got.sort(), addresses.map((address) => `${address} ${n}`).sort());
      }
      bus.publish("work", encode("end"));
      await Promise.all(workers.map(async ({ worker }) => assert.deepEqual(await once(worker, "exit"), [0])));
      await inbox.take(4);
    });

    scene("can be terminated while they wait, and others see it", async (scene) => {
      const bus = await scene.attach();
      const watch = await Watch.begin(bus);
      const workers = await Promise.all(Array.from({ length: 3 }, () => startWorker(scene, "block")));
      await Promise.all(workers.map(({ worker }) => worker.terminate()));
      for (const { address } of workers) await watch.of({ name: "departed", address });
      await peersAre(bus, [bus.address]);
      const next = await startWorker(scene, "block");
      await next.worker.terminate();
      await watch.of({ name: "departed", address: next.address });
    });

    scene("can be the master, and be terminated", async (scene) => {
      const first = await startWorker(scene, "block");
      assert.equal(first.address, "0:0");
      const bus = await scene.attach();
      const watch = await Watch.begin(bus);
      await bus.createGroup("g");
      await first.worker.terminate();
      await watch.of({ name: "departed", address: "0:0" });
      const inbox = new Inbox(await bus.subscribe("g"));
      bus.publish("g", encode("on"));
      assert.deepEqual(await inbox.texts(1), ["on"]);
      assert.equal(bus.isMaster, true);
    });
  });

  describe("processes", () => {
    scene("end with an open subscription that is unreferenced", async (scene) => {
      const child = await scene.join();
      await child.call.subscribe("g", "g");
      await child.call.publish("g", "x");
      await child.call.take("g", 1);
      await child.call.unrefAll();
      child.ask("disconnect");
      await child.expect(0);
    });

    scene("do not end while a subscription is read", async (scene) => {
      const bus = await scene.attach();
      const child = await scene.join();
      await child.call.subscribe("g", "g");
      child.ask("relay", "g", 1, bus.address);
      const inbox = new Inbox(await bus.subscribe(bus.address));
      child.ask("disconnect");
      await once(child.process, "disconnect");
      await publishSoon(bus, "g", encode("are you there"));
      assert.deepEqual(await inbox.texts(1), ["re are you there"]);
      await child.kill();
    });

    scene("that call process.exit leave the bus", async (scene) => {
      const bus = await scene.attach();
      const watch = await Watch.begin(bus);
      const child = await scene.join();
      await child.call.subscribe("g", ["g", child.address]);
      child.ask("exit", 3);
      await child.expect(3);
      await watch.of({ name: "departed", address: child.address });
      await peersAre(bus, [bus.address]);
    });

    scene("that call process.exit as the only ones leave nothing that is in the way", async (scene) => {
      const child = await scene.join();
      await child.call.subscribe("g", "g");
      child.ask("exit", 0);
      await child.expect(0);
      const bus = await scene.attach();
      assert.notEqual(bus.id, child.id);
      assert.equal(bus.address, "0:0");
    });

    for (const victim of ["publisher", "reader", "master"] as const) {
      scene(`killed as ${victim}: others see it and go on`, async (scene) => {
        const members = (await scene.joinMany(1)).concat(await scene.joinMany(3)) as [
          Member,
          Member,
          Member,
          Member,
        ];
        const [master, publisher, reader, witness] = members;
        const dying = { master, publisher, reader }[victim];
        await witness.call.watch();
        await witness.call.subscribe("g", ["g", witness.address]);
        await reader.call.subscribe("g", "g");
        // It dies with work in its hands: messages that nobody has read yet, or that it has not read itself.
        for (const one of [publisher, master])
          await one.call.publishAll([
            ["g", "before"],
            [witness.address, "before"],
          ]);
        await dying.kill();
        const events = await witness.call.eventsUntil({ name: "departed", address: dying.address });
        assert.equal(events.at(-1)?.reason, "died");
        const living = members.filter((one) => one !== dying);
        for (let n = 0; n < 100; n++) {
          for (const one of living) await one.call.publishAll([["g", `${one.address} ${n}`]]);
          const got = await witness.call.take("g", n === 0 ? 4 + living.length : living.length);
          assert.deepEqual(
            got.slice(-living.length).map(({ text }) => text),
            living.map(({ address }) => `${address} ${n}`),
          );
          if (n === 0)
            assert.deepEqual(
              got.slice(0, 4).map(({ text }) => text),
              Array(4).fill("before"),
            );
          if (victim !== "reader") await reader.call.take("g", n === 0 ? 2 + living.length : living.length);
        }
        const next = await scene.attach();
        assert.deepEqual(next.peers().filter(({ master }) => master).length, 1);
        assert.deepEqual(
          next
            .peers()
            .map(({ address }) => address)
            .sort(),
          [...living.map(({ address }) => address), next.address].sort(),
        );
        next.publish("g", encode("after"));
        assert.equal((await witness.call.take("g", 1))[0]?.text, "after");
      });
    }

    scene("killed all at once leave a bus that can be founded anew", async (scene) => {
      const members = await scene.joinMany(4);
      await Promise.all(members.map((one) => one.kill()));
      const bus = await scene.attach();
      assert.equal(bus.address, "0:0");
      assert.ok(members.every(({ id }) => id !== bus.id));
    });

    scene("stopped for a while lose nothing that they were given time for", async (scene) => {
      const bus = await scene.attach();
      const child = await scene.join();
      await child.call.subscribe("g", "g", { deadline: 10_000 });
      await child.pause();
      let sent = 0;
      assert.throws(() => {
        for (; ; sent++) bus.publish("g", encode(`${sent}`));
      }, failsWith("ERR_SHM_BUS_WOULD_BLOCK"));
      child.resume();
      const got = await child.call.take("g", sent);
      assert.deepEqual(
        got.map(({ text }) => text),
        got.map((_, n) => `${n}`),
      );
    });
  });

  scene("a reader past its deadline is evicted and told, and can come back", async (scene) => {
    const bus = await scene.attach();
    const evicted = new Promise<BusEvents["evicted"][0]>((resolve) => bus.once("evicted", resolve));
    const child = await scene.join();
    const subscription = await bus.subscribe("g", { deadline: 1 });
    await child.call.publishAll(Array.from({ length: 2 * small.headers }, (_, n) => ["g", `${n}`]));
    assert.throws(() => subscription.poll(() => {}), failsWith("ERR_SHM_BUS_EVICTED"));
    assert.throws(() => subscription.poll(() => {}), failsWith("ERR_SHM_BUS_EVICTED"));
    const event = await evicted;
    assert.deepEqual([typeof event.stamp, event.address], ["number", bus.address]);
    await subscription.close();
    const inbox = new Inbox(await bus.subscribe("g"));
    await child.call.publish("g", "again");
    assert.deepEqual(await inbox.texts(1), ["again"]);
  });

  scene("a newcomer's first message wakes those who sleep", async (scene) => {
    const members = await scene.joinMany(4);
    for (const one of members) await one.call.subscribe("g", "g");
    for (let n = 0; n < 30; n++) {
      // All of them wait: what they are asked for has not been sent yet.
      const reading = members.map((one) => one.call.take("g", 1));
      await Promise.all(members.map((one) => one.call.stats()));
      const bus = await scene.attach();
      bus.publish("g", encode(`${n}`));
      for (const got of await Promise.all(reading)) assert.equal(got[0]?.text, `${n}`);
      await bus.close();
    }
  });

  scene("many attachments one after the other in one process", async (scene) => {
    const keeper = await scene.join();
    for (let n = 1; n <= 100; n++) {
      const bus = await scene.attach();
      assert.equal(bus.address, `0:${n}`);
      const subscription = await bus.subscribe("g");
      bus.publish("g", encode("x"));
      assert.equal(
        subscription.poll(() => {}),
        1,
      );
      await bus.close();
    }
    assert.equal((await keeper.call.peers()).length, 1);
  });

  it("can be required by CommonJS", function () {
    const [major, minor] = process.versions.node.split(".").map(Number) as [number, number];
    if (major < 20 || (major === 20 && minor < 19)) this.skip();
    const directory = fileURLToPath(new URL("..", import.meta.url));
    const script =
      "const { Bus, codecs } = require('shm-bus'); console.log(typeof Bus.attach, Object.keys(codecs).join())";
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ["--input-type=commonjs", "--eval", script],
      {
        cwd: directory,
        encoding: "utf8",
        timeout: 60_000,
      },
    );
    assert.deepEqual([status, stdout.trim()], [0, "function bytes,utf8,json,structured"], stderr);
  });
});
