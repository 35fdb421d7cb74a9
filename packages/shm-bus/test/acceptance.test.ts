import assert from "node:assert/strict";
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeSync,
} from "node:fs";
import { inspect } from "node:util";
import { codecs, type Message } from "../src/index.ts";
import { encode, failsWith, type Member, publishSoon, scene, type Scene, small } from "./harness.ts";
import { Inbox } from "./inbox.ts";

/** Attaches ten processes: their addresses and the directory as the first of them sees it. */
async function ten(scene: Scene) {
  const all = await scene.joinMany(10);
  const addresses = all.map(({ address }) => address);
  return { all, addresses };
}

describe("acceptance", () => {
  scene("case 1: an attachment that does nothing leaves nothing", async (scene) => {
    await (await scene.attach()).close();
    assert.deepEqual(scene.files(), []);
    await assert.rejects(scene.attach("test", { signal: AbortSignal.abort() }), { name: "AbortError" });
    assert.deepEqual(scene.files(), []);
  });

  scene("case 2: a bus is founded once", async (scene) => {
    const other = scene.start();
    const bus = await scene.attach("test", { master: "only" });
    await assert.rejects(
      other.call.attach("test", { ...small, master: "only" }),
      failsWith("ERR_SHM_BUS_EXISTS"),
    );
    await assert.rejects(scene.attach("test", { master: "only" }), failsWith("ERR_SHM_BUS_EXISTS"));
    assert.deepEqual(
      bus.peers().map(({ address }) => address),
      ["0:0"],
    );
    // Another name is another bus, and the refused process can join this one.
    const second = await scene.attach("second", { master: "only" });
    assert.notEqual(second.id, bus.id);
    assert.equal((await other.call.attach("test", { ...small, master: "never" })).id, bus.id);
  });

  scene("case 3: an abstract name works like a file name", async (scene) => {
    const bus = await scene.attach("@test");
    assert.deepEqual(scene.files(), ["@test.lock"], "no socket file");
    const inbox = new Inbox(await bus.subscribe(bus.address));
    const other = await scene.join("@test");
    assert.equal(await other.call.publish(bus.address, "hello"), (await inbox.take(1))[0]?.stamp);
    await assert.rejects(scene.attach("@test", { master: "only" }), failsWith("ERR_SHM_BUS_EXISTS"));
    // The same name as a file is another bus.
    const plain = await scene.attach("test");
    assert.notEqual(plain.id, bus.id);
  });

  scene("case 4: the founding attachment is the master and has address 0:0", async (scene) => {
    const first = await scene.join();
    assert.equal(first.address, "0:0");
    assert.equal(await first.call.isMaster(), true);
    const second = await scene.attach();
    assert.deepEqual([second.address, second.isMaster], ["0:1", false]);
  });

  scene(
    "case 5: ten attachments have ten addresses, never used again, the same seen from everywhere",
    async (scene) => {
      const { all, addresses } = await ten(scene);
      const numbers = (list: string[]) =>
        list.map((address) => Number(address.slice(2))).sort((a, b) => a - b);
      assert.deepEqual(numbers(addresses), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      const wanted = new Map(all.map(({ address, pid }) => [address, pid]));
      for (const one of all) {
        assert.deepEqual(new Map((await one.call.peers()).map(({ address, pid }) => [address, pid])), wanted);
      }
      for (const one of all.splice(1, 5)) await one.end();
      const more = await scene.joinMany(2);
      assert.deepEqual(numbers(more.map(({ address }) => address)), [10, 11]);
    },
  );

  scene("case 6: a wrong protocol is refused, the right one accepted", async (scene) => {
    const master = await scene.attach("test", { protocol: 7 });
    const child = scene.start();
    for (const protocol of [0, 8]) {
      await assert.rejects(
        child.call.attach("test", { ...small, protocol }),
        failsWith("ERR_SHM_BUS_REFUSED"),
      );
    }
    await assert.rejects(scene.attach("test"), failsWith("ERR_SHM_BUS_REFUSED"));
    await child.call.attach("test", { ...small, protocol: 7 });
    assert.equal(master.peers().length, 2);
    // Whoever takes the role over keeps to it.
    await master.close();
    await assert.rejects(scene.attach("test", { protocol: 8 }), failsWith("ERR_SHM_BUS_REFUSED"));
    await scene.attach("test", { protocol: 7 });
  });

  scene("case 7: messages go to the master and back, their boundaries kept", async (scene) => {
    const master = await scene.attach();
    const inbox = new Inbox(await master.subscribe(master.address));
    const other = await scene.join();
    await other.call.subscribe("own", other.address);
    const sizes = [0, 1, 7, 8, 9, 511, 4096, 10_000, master.maxMessageBytes, 0, 3];
    const texts = sizes.map((size, n) => String.fromCharCode(97 + n).repeat(size));
    const reading = inbox.take(sizes.length);
    await other.call.publishAll(texts.map((text) => ["0:0", text]));
    for (const [n, { text, sender, destination, group }] of (await reading).entries()) {
      assert.ok(text === texts[n]);
      assert.deepEqual(
        { sender, destination, group },
        { sender: other.address, destination: "0:0", group: undefined },
      );
    }
    const theirs = other.call.take("own", sizes.length);
    for (const text of texts) await publishSoon(master, other.address, encode(text));
    for (const [n, { text, sender }] of (await theirs).entries()) {
      assert.ok(text === texts[n]);
      assert.equal(sender, "0:0");
    }
  });

  scene("case 16: a message to a group goes to its members, once each", async (scene) => {
    const { all } = await ten(scene);
    const outsider = await scene.attach();
    for (const one of all) await one.call.subscribe("all", "*");
    const members = all.slice(3, 5);
    for (const one of members) await one.call.subscribe("two", "two");
    const stamp = outsider.publish("two", encode("for two"));
    const last = outsider.publish("*", encode("for all"));
    for (const one of members) {
      const [message] = await one.call.take("two", 1);
      assert.deepEqual([message?.stamp, message?.text, message?.group], [stamp, "for two", "two"]);
    }
    // The first thing that everyone gets is the one for everyone.
    for (const one of all) {
      const [message] = await one.call.take("all", 1);
      assert.deepEqual([message?.stamp, message?.text, message?.group], [last, "for all", "*"]);
    }
    // Nothing came twice.
    const end = outsider.publish("two", encode("end"));
    for (const one of members) assert.equal((await one.call.take("two", 1))[0]?.stamp, end);
  });

  scene("case 17: a message to everyone goes to all ten, its sender included", async (scene) => {
    const { all, addresses } = await ten(scene);
    for (const one of all) await one.call.subscribe("all", "*");
    const stamps = await Promise.all(all.map((one) => one.call.publish("*", "hello")));
    const wanted = addresses.map((sender, n) => ({ sender, stamp: stamps[n] as number }));
    wanted.sort((a, b) => a.stamp - b.stamp);
    for (const one of all) {
      const got = await one.call.take("all", 10);
      assert.deepEqual(
        got.map(({ sender, stamp }) => ({ sender, stamp })),
        wanted,
      );
    }
  });

  scene(
    "case 31: two receivers see two senders' messages in one order, also when one is slow",
    async (scene) => {
      const [a, b, c, d] = (await scene.joinMany(4)) as [Member, Member, Member, Member];
      for (const receiver of [c, d]) await receiver.call.subscribe("g", "g");
      const texts = (name: string) =>
        Array.from({ length: 5 }, (_, n) => ["g", `${name}${n}`] as [string, string]);
      const fast = c.call.take("g", 10);
      await Promise.all([a.call.publishAll(texts("a")), b.call.publishAll(texts("b"))]);
      const seen = await fast;
      // The slow one begins to read only now.
      assert.deepEqual(await d.call.take("g", 10), seen);
      for (const { address, name } of [
        { address: a.address, name: "a" },
        { address: b.address, name: "b" },
      ]) {
        const own = seen.filter(({ sender }) => sender === address).map(({ text }) => text);
        assert.deepEqual(
          own,
          texts(name).map(([, text]) => text),
        );
      }
      const stamps = seen.map(({ stamp }) => stamp);
      assert.deepEqual(
        stamps,
        [...new Set(stamps)].sort((x, y) => x - y),
      );
    },
  );

  scene("case 45: after close every call says so, and close can be called again", async (scene) => {
    const other = await scene.join();
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g");
    const idle = await bus.subscribe("h");
    const loan = bus.loan("g", 10);
    const closing = bus.close();
    assert.equal(bus.close(), closing);
    // At once, not only when it is done.
    assert.throws(() => bus.publish("g", encode("x")), failsWith("ERR_SHM_BUS_CLOSED"));
    await closing;
    await bus.close();
    await bus[Symbol.asyncDispose]();
    const closed = failsWith("ERR_SHM_BUS_CLOSED");
    assert.throws(() => bus.publish("g", encode("x")), closed);
    assert.throws(() => bus.publish("g", { x: 1 }, { codec: codecs.json }), closed);
    assert.throws(() => bus.loan("g", 1), closed);
    assert.throws(() => loan.publish(), closed);
    assert.throws(() => bus.batch(() => {}), closed);
    assert.throws(() => bus.peers(), closed);
    assert.throws(() => bus.stats(), closed);
    await assert.rejects(bus.subscribe("g"), closed);
    await assert.rejects(bus.createGroup("g"), closed);
    await assert.rejects(bus.writable(), closed);
    assert.throws(() => subscription.poll(() => {}), closed);
    assert.throws(() => idle.onMessages(() => {}), closed);
    assert.throws(() => idle.wait(0), closed);
    assert.throws(() => idle[Symbol.asyncIterator](), closed);
    await subscription.close();
    assert.deepEqual([bus.closed, subscription.closed, idle.closed], [true, true, true]);
    assert.match(inspect(bus), /closed/);
    assert.deepEqual(
      (await other.call.peers()).map(({ address }) => address),
      ["0:0"],
    );
  });

  scene("case 49: an empty message to oneself arrives with its destination", async (scene) => {
    const bus = await scene.attach();
    const inbox = new Inbox(await bus.subscribe(bus.address));
    const stamp = bus.publish(bus.address, new Uint8Array(0));
    const [message] = await inbox.take(1);
    assert.deepEqual(
      [message?.stamp, message?.bytes.length, message?.sender, message?.destination, message?.group],
      [stamp, 0, bus.address, bus.address, undefined],
    );
  });

  scene("case 50: an empty message arrives at another attachment", async (scene) => {
    const bus = await scene.attach();
    const other = await scene.join();
    await other.call.subscribe("own", other.address);
    const stamp = bus.publish(other.address, new Uint8Array(0));
    const [message] = await other.call.take("own", 1);
    assert.deepEqual(
      [message?.stamp, message?.bytes.length, message?.sender, message?.destination],
      [stamp, 0, bus.address, other.address],
    );
  });

  scene("case 60: where one destination has no room, no other destination gets anything", async (scene) => {
    const bus = await scene.attach();
    const [slow, ...others] = (await scene.joinMany(4)) as [Member, ...Member[]];
    await slow.call.subscribe("own", slow.address, { deadline: 10_000 });
    for (const one of others) await one.call.subscribe("own", one.address);
    let held = 0;
    for (; ; held++) {
      try {
        bus.publish(slow.address, encode(`slow ${held}`));
      } catch (error) {
        failsWith("ERR_SHM_BUS_WOULD_BLOCK")(error);
        break;
      }
    }
    assert.ok(held > 0);
    const all = [...others, slow].map(({ address }) => address);
    const refused = () => bus.publish(all, encode("transaction"));
    for (let n = 0; n < 3; n++) assert.throws(refused, failsWith("ERR_SHM_BUS_WOULD_BLOCK"));
    const before = bus.stats();
    assert.equal(before.published, held);
    assert.equal(before.wouldBlock, 4);
    const writable = bus.writable();
    const queued = await slow.call.take("own", held);
    assert.deepEqual(
      queued.map(({ text }) => text),
      queued.map((_, n) => `slow ${n}`),
    );
    await writable;
    const stamp = refused();
    for (const one of [...others, slow]) {
      const [message] = await one.call.take("own", 1);
      assert.deepEqual([message?.stamp, message?.text], [stamp, "transaction"]);
    }
  });

  scene("case 69: an answer to a group message comes behind it, to everyone", async (scene) => {
    const bus = await scene.attach();
    const [one, two] = (await scene.joinMany(2)) as [Member, Member];
    const rounds = 100;
    await one.call.subscribe("m", "g");
    await two.call.subscribe("all", ["g", two.address]);
    const relaying = one.call.relay("m", rounds, two.address);
    const seen = two.call.take("all", 2 * rounds);
    for (let n = 0; n < rounds; n++) await publishSoon(bus, "g", encode(`${n}`));
    await relaying;
    const texts = (await seen).map(({ text }) => text);
    for (let n = 0; n < rounds; n++) {
      assert.ok(
        texts.indexOf(`${n}`) >= 0 && texts.indexOf(`${n}`) < texts.indexOf(`re ${n}`),
        `message ${n}`,
      );
    }
  });

  scene("case 71: one sender's messages stay in its order, to groups and addresses", async (scene) => {
    const sender = await scene.join();
    const [one, two] = (await scene.joinMany(2)) as [Member, Member];
    await one.call.subscribe("all", ["g", one.address]);
    await two.call.subscribe("all", ["g", "h", two.address]);
    const targets = [
      "g",
      one.address,
      two.address,
      [one.address, "h"],
      "h",
      "g",
      [two.address, one.address, "g"],
    ];
    const pairs = Array.from(
      { length: 350 },
      (_, n) => [targets[n % 7], `${n}`] as [string | string[], string],
    );
    const at = (...kinds: number[]) => pairs.flatMap(([, text], n) => (kinds.includes(n % 7) ? [text] : []));
    const wantedByOne = at(0, 1, 3, 5, 6);
    const wantedByTwo = at(0, 2, 3, 4, 5, 6);
    const byOne = one.call.take("all", wantedByOne.length);
    const byTwo = two.call.take("all", wantedByTwo.length);
    const stamps = await sender.call.publishAll(pairs);
    assert.deepEqual(
      (await byOne).map(({ text }) => text),
      wantedByOne,
    );
    assert.deepEqual(
      (await byTwo).map(({ text }) => text),
      wantedByTwo,
    );
    assert.deepEqual(
      stamps,
      stamps.toSorted((a, b) => a - b),
    );
  });

  scene("case 90: a receiver cannot write into a sender's memory", async (scene) => {
    const bus = await scene.attach();
    const sender = await scene.join();
    await bus.createGroup("g");
    const inbox = new Inbox(await bus.subscribe("g"));
    await sender.call.publish("g", "before");
    assert.deepEqual(await inbox.texts(1), ["before"]);
    const payload = "/memfd:shm-bus-payload";

    // What is mapped writable is this process's own.
    const areas = readFileSync("/proc/self/smaps", "utf8").split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
    const maps = areas
      .filter((area) => area.includes(payload))
      .map((area) => {
        const [range, mode, , , inode] = area.split(/ +/) as [string, string, string, string, string];
        return {
          range,
          mode,
          inode: Number(inode),
          mayWrite: / mw\b/.test(area.match(/^VmFlags:.*$/m)?.[0] ?? ""),
        };
      });
    const own = new Set(maps.filter(({ mode }) => mode.includes("w")).map(({ inode }) => inode));
    assert.equal(own.size, 1);
    const foreign = maps.filter(({ inode }) => !own.has(inode));
    assert.ok(foreign.length > 0);
    // Without `mw` among its flags mprotect cannot make an area writable.
    for (const { range, mode, mayWrite } of foreign) {
      assert.deepEqual([mode, mayWrite], ["r--s", false], range);
      const memory = openSync("/proc/self/mem", constants.O_RDWR);
      assert.throws(() => writeSync(memory, encode("x"), 0, 1, Number.parseInt(range, 16)), { code: "EIO" });
      closeSync(memory);
    }

    const descriptors = readdirSync("/proc/self/fd").filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).startsWith(payload);
      } catch {
        return false;
      }
    });
    const checked = descriptors.filter((number) => {
      if (own.has(fstatSync(Number(number)).ino)) return false;
      const fd = openSync(`/proc/self/fd/${number}`, constants.O_RDWR);
      for (const each of [fd, Number(number)]) {
        const refused = { code: "EPERM" };
        assert.throws(() => writeSync(each, encode("x"), 0, 1, 0), refused);
        assert.throws(() => ftruncateSync(each, 0), refused);
        assert.throws(() => ftruncateSync(each, fstatSync(each).size + 4096), refused);
      }
      closeSync(fd);
      return true;
    });
    assert.ok(checked.length > 0);
    await sender.call.publish("g", "after");
    assert.deepEqual(await inbox.texts(1), ["after"]);
  });

  scene(
    "case 91: what has ended cannot be ended again, and what is forgotten harms nobody",
    async (scene) => {
      const other = await scene.join();
      const bus = await scene.attach();
      await other.call.subscribe("g", "g");
      const ended = failsWith("ERR_SHM_BUS_LOAN_ENDED");

      const published = bus.loan("g", 5);
      published.bytes.set(encode("first"));
      published.publish();
      assert.throws(() => published.publish(), ended);
      assert.throws(() => published.bytes, ended);
      published[Symbol.dispose]();

      const abandoned = bus.loan("g", 5);
      abandoned[Symbol.dispose]();
      abandoned[Symbol.dispose]();
      assert.throws(() => abandoned.publish(), ended);
      assert.throws(() => abandoned.bytes, ended);

      const tooLong = bus.loan("g", 5);
      const invalid = failsWith("ERR_SHM_BUS_INVALID_DATA");
      for (const bytes of [6, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
        assert.throws(() => tooLong.publish(bytes), invalid);
        assert.throws(() => bus.loan("g", bytes === 6 ? -6 : bytes), invalid);
      }
      tooLong.bytes.set(encode("still"));
      tooLong.publish(5);
      assert.deepEqual(
        (await other.call.take("g", 2)).map(({ text }) => text),
        ["first", "still"],
      );

      // Forgotten ones keep their space, and nothing is written over anything.
      const forgotten = [1000, 0, 1, 4096].map((bytes) => bus.loan("g", bytes));
      for (const { bytes } of forgotten) bytes.fill(0xee);
      const texts = Array.from({ length: 20 }, (_, n) => `${n}`.repeat(50));
      for (const text of texts) bus.publish("g", encode(text));
      assert.deepEqual(
        (await other.call.take("g", 20)).map(({ text }) => text),
        texts,
      );
      for (const { bytes } of forgotten) assert.ok(bytes.every((byte) => byte === 0xee));
      assert.throws(() => {
        for (;;) bus.publish("g", encode("x"));
      }, failsWith("ERR_SHM_BUS_WOULD_BLOCK"));
      // Others are not concerned.
      await other.call.subscribe("own", other.address);
      for (let n = 0; n < 200; n++) {
        await other.call.publish(other.address, `${n}`);
        assert.equal((await other.call.take("own", 1))[0]?.text, `${n}`);
      }
      const last = forgotten.at(-1);
      last?.bytes.set(encode("last"));
      assert.throws(() => last?.publish(4096 + 1), invalid);
      await bus.close();
      for (const loan of forgotten) assert.equal(loan.bytes.length, 0);
      assert.throws(() => last?.publish(), failsWith("ERR_SHM_BUS_CLOSED"));
      for (const loan of forgotten) loan[Symbol.dispose]();
    },
  );

  scene("case 91: a message cannot be used after its lease", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g");
    bus.publish("g", encode("one"));
    const kept: Message[] = [];
    assert.equal(
      subscription.poll((message) => kept.push(message)),
      1,
    );
    const [message] = kept;
    const ended = failsWith("ERR_SHM_BUS_LEASE_ENDED");
    for (const use of [
      () => message?.data,
      () => message?.stamp,
      () => message?.value,
      () => message?.copy(),
      () => message?.sender,
      () => message?.topic,
    ]) {
      assert.throws(use, ended);
    }
    assert.match(inspect(message), /lease ended/);
  });
});
