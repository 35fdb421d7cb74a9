import assert from "node:assert/strict";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type AttachOptions, Bus, type Codec, codecs, type SubscribeOptions, type To } from "../src/index.ts";
import { encode, failsWith, scene, type Scene, small } from "./harness.ts";
import { Inbox } from "./inbox.ts";

describe("bad input", () => {
  scene("names of a bus", async (scene) => {
    const names: unknown[] = [
      "",
      "@",
      "n".repeat(65),
      `@${"n".repeat(64)}`,
      "é".repeat(33),
      "a/b",
      "/",
      "..",
      ".",
      "@..",
    ];
    names.push("a\0b", "a\nb", undefined, null, 5, {}, ["test"], Symbol("test"), 5n);
    for (const name of names) {
      await assert.rejects(
        Bus.attach(name as string, { ...small, runtimeDirectory: scene.directory }),
        failsWith("ERR_SHM_BUS_INVALID_NAME"),
        String(name),
      );
      assert.deepEqual(scene.files(), []);
    }
    for (const name of ["n".repeat(64), `@${"n".repeat(63)}`, "é".repeat(32), "-", "...", "with space"]) {
      await (await scene.attach(name)).close();
    }
  });

  scene("runtime directories", async (scene) => {
    const inside = (name: string) => join(scene.directory, name);
    const refused = async (runtimeDirectory: string, details?: { errno: number }) => {
      const options = { ...small, runtimeDirectory };
      await assert.rejects(Bus.attach("test", options), failsWith("ERR_SHM_BUS_RUNTIME_DIRECTORY", details));
    };
    await refused(inside("missing"), { errno: 2 });
    const directory = inside("d");
    mkdirSync(directory, { mode: 0o700 });
    for (const mode of [0o755, 0o710, 0o701, 0o777]) {
      chmodSync(directory, mode);
      await refused(directory);
      assert.deepEqual(readdirSync(directory), []);
    }
    chmodSync(directory, 0o700);
    symlinkSync(directory, inside("link"));
    await refused(inside("link"));
    await refused(inside("link/"));
    writeFileSync(inside("file"), "");
    await refused(inside("file"));
    const long = join(directory, "x".repeat(100));
    mkdirSync(long, { mode: 0o700 });
    await refused(long);
    assert.deepEqual(readdirSync(long), []);
    for (const runtimeDirectory of ["", "relative", 5 as unknown as string, {} as unknown as string]) {
      const options = { ...small, runtimeDirectory };
      await assert.rejects(Bus.attach("test", options), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
    }
    assert.deepEqual(readdirSync(directory), ["x".repeat(100)]);
    for (const name of ["d", "link", "file"]) rmSync(inside(name), { recursive: true });
  });

  scene("a runtime directory of another user", async (scene) => {
    if (process.getuid?.() !== 0) {
      process.stderr.write("    only root can give a directory away: not tried\n");
      return;
    }
    const directory = join(scene.directory, "d");
    mkdirSync(directory, { mode: 0o700 });
    chownSync(directory, 12_345, 12_345);
    const options = { ...small, runtimeDirectory: directory };
    await assert.rejects(Bus.attach("test", options), failsWith("ERR_SHM_BUS_RUNTIME_DIRECTORY"));
    assert.deepEqual(readdirSync(directory), []);
    rmSync(directory, { recursive: true });
  });

  scene("the runtime directory of the environment", async (scene) => {
    const child = scene.start();
    await child.call.attach("test", small);
    assert.deepEqual(scene.files(), ["test.lock", "test.sock"]);
  });

  const badOptions: Record<string, unknown[]> = {
    ringBytes: [
      0,
      1,
      65_537,
      3 << 16,
      -65_536,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      "65536",
      65_536.5,
      2 ** 34,
      2 ** 60,
      null,
    ],
    headers: [0, 63, 65, -64, Number.NaN, "64", 2 ** 16],
    slots: [0, 1, 128.5, 1000, -256, Number.NaN, "256", 2 ** 25],
    timeout: [-1, Number.NaN, Number.POSITIVE_INFINITY, "5"],
    protocol: [-1, 1.5, 2 ** 32, Number.NaN, "0"],
    master: ["", "maybe", 5, null],
    wait: ["", "sleep", 5, null],
  };
  for (const [option, values] of Object.entries(badOptions)) {
    scene(`option ${option}`, async (scene) => {
      for (const value of values) {
        const options = { [option]: value } as AttachOptions;
        await assert.rejects(
          scene.attach("test", options),
          (error: Error) => failsWith("ERR_SHM_BUS_INVALID_OPTION")(error) && error.message.includes(option),
          String(value),
        );
        assert.deepEqual(scene.files(), []);
      }
    });
  }

  scene("more headers than a quarter of the slots", async (scene) => {
    const options = { slots: 256, headers: 128 };
    await assert.rejects(scene.attach("test", options), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
    await scene.attach("test", { slots: 256 });
    await assert.rejects(scene.attach("test", options), failsWith("ERR_SHM_BUS_REFUSED"));
  });

  scene("no bus", async (scene) => {
    await assert.rejects(scene.attach("test", { master: "never" }), failsWith("ERR_SHM_BUS_NOT_FOUND"));
    await assert.rejects(scene.attach("@test", { master: "never" }), failsWith("ERR_SHM_BUS_NOT_FOUND"));
  });

  scene("more memory than can be had", async (scene) => {
    await scene.run("limits.ts", ["file-size"], ["bash", "-c", 'ulimit -f 2048 && exec "$@"', "-"]).expect(0);
    await scene.run("limits.ts", ["address-space"]).expect(0);
  });

  scene("too few file descriptors to found a bus, one more each time", async (scene) => {
    await scene.run("limits.ts", ["found"], ["bash", "-c", 'ulimit -n 128 && exec "$@"', "-"]).expect(0);
  });

  scene("too few file descriptors to join a bus, one more each time", async (scene) => {
    const bus = await scene.attach();
    const inbox = new Inbox(await bus.subscribe("done"));
    const child = scene.run("limits.ts", ["join"], ["bash", "-c", 'ulimit -n 128 && exec "$@"', "-"]);
    await child.expect(0);
    assert.deepEqual(await inbox.texts(1), ["joined"]);
    // Whatever half of it has come in is gone again.
    const next = await scene.join();
    assert.equal(await next.call.publish("done", "next"), (await inbox.take(1))[0]?.stamp);
    assert.equal(bus.isMaster, true);
  });

  scene("a member without file descriptors when others attach", async (scene) => {
    const bus = await scene.attach();
    const inbox = new Inbox(await bus.subscribe("ready"));
    const child = scene.run("limits.ts", ["member"], ["bash", "-c", 'ulimit -n 128 && exec "$@"', "-"]);
    assert.deepEqual(await Promise.race([inbox.texts(1), child.ended]), ["full"], child.output);
    const other = await scene.join();
    assert.equal(bus.isMaster, true, "the master keeps its role");
    await other.call.publish("go", "go");
    await child.expect(0);
    const last = await scene.join();
    await last.call.publish("ready", "last");
    assert.deepEqual(await inbox.texts(1), ["last"]);
  });

  scene("files that a dead master leaves", async (scene) => {
    for (const name of ["test", "@test"]) {
      const dead = await scene.join(name);
      const { id } = dead;
      await dead.kill();
      assert.deepEqual(scene.files(), name === "test" ? ["test.lock", "test.sock"] : ["@test.lock"]);
      const bus = await scene.attach(name);
      assert.notEqual(bus.id, id);
      assert.equal(bus.address, "0:0");
      const inbox = new Inbox(await bus.subscribe("*"));
      const other = await scene.join(name);
      await other.call.publish("*", "hello");
      assert.deepEqual(await inbox.texts(1), ["hello"]);
      await other.end();
      await bus.close();
      assert.deepEqual(scene.files(), []);
    }
  });

  scene("something else in the place of the socket or the lock", async (scene) => {
    const socket = join(scene.directory, "test.sock");
    const lock = join(scene.directory, "test.lock");
    writeFileSync(socket, "no socket");
    await (await scene.attach()).close();
    assert.equal(existsSync(socket), false);

    mkdirSync(socket);
    await assert.rejects(scene.attach(), failsWith("ERR_SHM_BUS_SYSTEM"));
    assert.deepEqual(scene.files(), ["test.sock"]);
    rmSync(socket, { recursive: true });

    symlinkSync("/dev/null", lock);
    await assert.rejects(scene.attach(), failsWith("ERR_SHM_BUS_SYSTEM", { errno: 40 }));
    rmSync(lock);
    mkdirSync(lock);
    await assert.rejects(scene.attach(), failsWith("ERR_SHM_BUS_SYSTEM", { errno: 21 }));
    rmSync(lock, { recursive: true });
  });

  /** A bus with a witness: nothing but the last message may have come to it. */
  async function nothingPublished(
    scene: Scene,
    tryThings: (bus: Bus, witness: string) => Promise<void>,
  ): Promise<void> {
    const witness = await scene.join();
    const bus = await scene.attach();
    await witness.call.subscribe("all", ["*", "g", witness.address]);
    const reading = witness.call.take("all", 1);
    await tryThings(bus, witness.address);
    assert.equal(bus.stats().published, 0);
    const stamp = bus.publish("*", encode("last"));
    const [message] = await reading;
    assert.deepEqual([message?.stamp, message?.text], [stamp, "last"]);
  }

  scene("destinations", (scene) =>
    nothingPublished(scene, async (bus, witness) => {
      const gone = await scene.join();
      await gone.end();
      const many = Array.from({ length: 257 }, (_, n) => `0:${n + 100}`);
      const wrong: [unknown, Parameters<typeof failsWith>[0]][] = [
        ["none", "ERR_SHM_BUS_UNKNOWN_GROUP"],
        ["", "ERR_SHM_BUS_UNKNOWN_GROUP"],
        ["g ", "ERR_SHM_BUS_UNKNOWN_GROUP"],
        ["0:", "ERR_SHM_BUS_UNKNOWN_GROUP"],
        ["0:-1", "ERR_SHM_BUS_UNKNOWN_GROUP"],
        ["g\n*", "ERR_SHM_BUS_UNKNOWN_GROUP"],
        ["0:99", "ERR_SHM_BUS_UNKNOWN_ADDRESS"],
        ["9:*", "ERR_SHM_BUS_UNKNOWN_ADDRESS"],
        ["7:7", "ERR_SHM_BUS_UNKNOWN_ADDRESS"],
        [gone.address, "ERR_SHM_BUS_UNKNOWN_ADDRESS"],
        [bus.address, "ERR_SHM_BUS_UNREACHABLE"],
        [["g", "none"], "ERR_SHM_BUS_UNKNOWN_GROUP"],
        [["g", "0:99"], "ERR_SHM_BUS_UNKNOWN_ADDRESS"],
        [[witness, bus.address], "ERR_SHM_BUS_UNREACHABLE"],
        [["g", "*", "g"], "ERR_SHM_BUS_DUPLICATE_DESTINATION"],
        [[witness, witness], "ERR_SHM_BUS_DUPLICATE_DESTINATION"],
        [many, "ERR_SHM_BUS_INVALID_OPTION"],
        [[], "ERR_SHM_BUS_INVALID_OPTION"],
        [undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        [null, "ERR_SHM_BUS_INVALID_OPTION"],
        [5, "ERR_SHM_BUS_INVALID_OPTION"],
        [{}, "ERR_SHM_BUS_INVALID_OPTION"],
        [["g", 5], "ERR_SHM_BUS_INVALID_OPTION"],
      ];
      // Twice: a destination that was refused must not be known the next time.
      for (const [to, code] of [...wrong, ...wrong]) {
        const what = JSON.stringify(to);
        assert.throws(() => bus.publish(to as To, encode("x")), failsWith(code), what);
        assert.throws(() => bus.publish(to as To, "x", { codec: codecs.utf8 }), failsWith(code), what);
        assert.throws(() => bus.batch(() => void bus.publish(to as To, encode("x"))), failsWith(code), what);
        // Where it goes is looked at when a loan is published.
        assert.throws(() => bus.loan(to as To, 1).publish(), failsWith(code), what);
      }
    }),
  );

  scene("data", (scene) =>
    nothingPublished(scene, async (bus) => {
      const detached = new Uint8Array(8);
      structuredClone(detached, { transfer: [detached.buffer] });
      const resizable = new Uint8Array(
        new (ArrayBuffer as unknown as ResizableBuffer)(8, { maxByteLength: 16 }),
      );
      const growable = new Uint8Array(
        new (SharedArrayBuffer as unknown as ResizableBuffer)(8, { maxByteLength: 16 }),
      );
      const wrong = [
        detached,
        resizable,
        growable,
        new Uint16Array(4),
        new Uint8ClampedArray(4),
        new DataView(new ArrayBuffer(4)),
        new ArrayBuffer(4),
        new SharedArrayBuffer(4),
        [1, 2, 3],
        "text",
        5,
        5n,
        null,
        undefined,
        {},
        { length: 3 },
        Symbol("x"),
      ];
      for (const data of wrong) {
        assert.throws(() => bus.publish("g", data as Uint8Array), failsWith("ERR_SHM_BUS_INVALID_DATA"));
        assert.throws(
          () => bus.publish(["g", "*"], data as Uint8Array),
          failsWith("ERR_SHM_BUS_INVALID_DATA"),
        );
      }
      assert.throws(
        () => bus.publish("g", undefined, { codec: codecs.json }),
        failsWith("ERR_SHM_BUS_INVALID_DATA"),
      );
      for (const topic of [1, "1", null, {}]) {
        const options = { topic: topic as unknown as bigint };
        assert.throws(() => bus.publish("g", encode("x"), options), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
      }
    }),
  );

  scene("codecs that misbehave", (scene) =>
    nothingPublished(scene, async (bus) => {
      type Encode = Codec<Uint8Array>["encode"];
      const wrong: Encode[] = [
        () => 0,
        (_value, reserve) => reserve(1).length + reserve(1).length,
        (_value, reserve) => reserve(4).length + 1,
        (_value, reserve) => -reserve(4).length,
        (_value, reserve) => reserve(4).length / 8,
        (_value, reserve) => (reserve(4), Number.NaN),
        (_value, reserve) => (reserve(4), undefined as unknown as number),
      ];
      // More often than there are headers: what was reserved is given back.
      for (let n = 0; n < small.headers; n++) {
        for (const encode of wrong) {
          const codec = { name: "wrong", encode, decode: (view: Uint8Array) => view };
          assert.throws(
            () => bus.publish("g", new Uint8Array(4), { codec }),
            failsWith("ERR_SHM_BUS_INVALID_OPTION"),
          );
        }
        const thrown = new Error("from the codec");
        const encode: Encode = (_value, reserve) => {
          reserve(4);
          throw thrown;
        };
        const codec = { name: "thrower", encode, decode: (view: Uint8Array) => view };
        assert.throws(
          () => bus.publish("g", new Uint8Array(4), { codec }),
          (error) => error === thrown,
        );
        const loan = bus.loan("g", 4);
        assert.throws(() => loan.publish(4, 5 as unknown as bigint), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
        loan[Symbol.dispose]();
      }
    }),
  );

  scene("too much data", (scene) =>
    nothingPublished(scene, async (bus) => {
      const tooBig = failsWith("ERR_SHM_BUS_TOO_BIG");
      for (const length of [bus.maxMessageBytes + 1, small.ringBytes, 10 * small.ringBytes]) {
        assert.throws(() => bus.publish("g", new Uint8Array(length)), tooBig);
        assert.throws(() => bus.loan("g", length), tooBig);
        assert.throws(() => bus.publish("g", "x".repeat(length), { codec: codecs.json }), tooBig);
      }
      assert.throws(() => bus.loan("g", 2 ** 40), tooBig);
      // The destinations of a transaction take their part.
      assert.throws(() => bus.publish(["g", "*"], new Uint8Array(bus.maxMessageBytes)), tooBig);
      bus.loan("g", bus.maxMessageBytes)[Symbol.dispose]();
    }),
  );

  scene("data in every buffer that is allowed", async (scene) => {
    const bus = await scene.attach();
    const inbox = new Inbox(await bus.subscribe("g"));
    const bytes = [1, 2, 3, 4];
    const shared = new Uint8Array(new SharedArrayBuffer(4));
    shared.set(bytes);
    const middle = new Uint8Array([9, 9, ...bytes, 9]).subarray(2, 6);
    const all = [Uint8Array.from(bytes), Buffer.from(bytes), shared, middle];
    for (const data of all) bus.publish("g", data);
    for (const { bytes: got } of await inbox.take(all.length)) assert.deepEqual([...got], bytes);
    for (const empty of [new Uint8Array(0), middle.subarray(4), Buffer.alloc(0)]) bus.publish("g", empty);
    for (const { bytes: got } of await inbox.take(3)) assert.equal(got.length, 0);
  });

  scene("subscriptions and groups", (scene) =>
    nothingPublished(scene, async (bus, witness) => {
      const wrong: [unknown, SubscribeOptions | undefined, Parameters<typeof failsWith>[0]][] = [
        [[], undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        [witness, undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        ["0:*", undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        [5, undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        [undefined, undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        [null, undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        [["g", 5], undefined, "ERR_SHM_BUS_INVALID_OPTION"],
        ["", undefined, "ERR_SHM_BUS_INVALID_NAME"],
        ["a\tb", undefined, "ERR_SHM_BUS_INVALID_NAME"],
        ["n".repeat(201), undefined, "ERR_SHM_BUS_INVALID_NAME"],
        [Array.from({ length: 100 }, (_, n) => `g${n}`), undefined, "ERR_SHM_BUS_LIMIT"],
        ["g", { overload: "drop" as unknown as "block" }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { overload: "lossy", deadline: 5 }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { overload: "block", maxLag: 5 }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { deadline: 5, maxLag: 5 }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { maxLag: 0 }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { maxLag: 1.5 }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { maxLag: 2 ** 40 }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { deadline: -1 }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { deadline: Number.NaN }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { deadline: "1" as unknown as number }, "ERR_SHM_BUS_INVALID_OPTION"],
        ["g", { timeout: Number.POSITIVE_INFINITY }, "ERR_SHM_BUS_INVALID_OPTION"],
      ];
      for (const [to, options, code] of wrong) {
        await assert.rejects(
          bus.subscribe(to as To, options ?? {}),
          failsWith(code),
          JSON.stringify([to, options]),
        );
      }
      for (const name of ["", "n".repeat(201), "a\0"]) {
        await assert.rejects(bus.createGroup(name), failsWith("ERR_SHM_BUS_INVALID_NAME"), name);
      }
      for (const name of [undefined, 5, null, {}]) {
        await assert.rejects(bus.createGroup(name as string), failsWith("ERR_SHM_BUS_INVALID_NAME"));
      }
      await assert.rejects(bus.createGroup("x", { timeout: -1 }), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
      assert.equal(await bus.createGroup("*"), "0:*");
      assert.equal(await bus.createGroup("x"), await bus.createGroup("x"));
      await bus.createGroup("n".repeat(200));
      assert.deepEqual(bus.peers().find(({ address }) => address === bus.address)?.groups, []);
    }),
  );

  scene("wrong uses of a subscription", async (scene) => {
    const bus = await scene.attach();
    const subscription = await bus.subscribe("g");
    for (const limit of [0, -1, 1.5, Number.NaN, "1" as unknown as number]) {
      assert.throws(() => subscription.poll(() => {}, limit), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
    }
    const stop = subscription.onMessages(() => {});
    const inUse = failsWith("ERR_SHM_BUS_IN_USE");
    assert.throws(() => subscription.onMessages(() => {}), inUse);
    assert.throws(() => subscription.poll(() => {}), inUse);
    assert.throws(() => subscription.wait(0), inUse);
    assert.throws(() => subscription[Symbol.asyncIterator](), inUse);
    stop();
    stop();
    assert.equal(
      subscription.poll(() => {}),
      0,
    );
    const iterator = subscription[Symbol.asyncIterator]();
    const first = iterator.next();
    await assert.rejects(iterator.next(), inUse);
    assert.throws(() => subscription.poll(() => {}), inUse);
    assert.throws(() => bus.batch(() => void bus.loan("g", 1)), inUse);
    assert.throws(() => bus.batch(() => void bus.batch(() => {})), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
    const asynchronous = (async () => {}) as () => void;
    assert.throws(() => bus.batch(asynchronous), failsWith("ERR_SHM_BUS_INVALID_OPTION"));
    bus.publish("g", encode("x"));
    assert.equal((await first).value?.byteLength, 1);
    await subscription.close();
    assert.deepEqual(await iterator.next(), { done: true, value: undefined });
  });

  scene("nobody answers", async (scene) => {
    const stopped = await scene.join();
    await stopped.pause();
    try {
      const options = { timeout: 100 };
      await assert.rejects(scene.attach("test", options), failsWith("ERR_SHM_BUS_NO_MASTER"));
    } finally {
      stopped.resume();
    }
    await scene.attach();
  });
});

type ResizableBuffer = new (length: number, options: { maxByteLength: number }) => ArrayBuffer;
