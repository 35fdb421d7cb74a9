import assert from "node:assert/strict";
import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { setImmediate as turn } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { createSharedMemory, mapSharedMemory, notify, wait, waitAsync } from "../src/index.ts";
import { child, ending } from "./processes.ts";

function mappings(): number {
  return readFileSync("/proc/self/maps", "latin1").split("memfd:atomics-wait").length - 1;
}

describe("shared memory", () => {
  it("is zeros of the size asked for, which nobody can change", () => {
    const { buffer, fd } = createSharedMemory(5000);
    assert.ok(buffer instanceof ArrayBuffer);
    assert.equal(buffer.byteLength, 5000);
    assert.ok(new Uint8Array(buffer).every((byte) => byte === 0));
    assert.equal(fstatSync(fd).size, 8192);
    assert.throws(() => ftruncateSync(fd, 4096), { code: "EPERM" });
    closeSync(fd);
  });

  it("is the same through every map, also after its descriptor is closed", () => {
    const { buffer, fd } = createSharedMemory(4096);
    const again = mapSharedMemory(fd, 4096);
    const loads = mapSharedMemory(fd, 100, { readOnly: true });
    closeSync(fd);
    assert.equal(loads.byteLength, 100);
    new Int32Array(buffer)[9] = 77;
    assert.deepEqual([new Int32Array(again)[9], new Int32Array(loads)[9]], [77, 77]);
    assert.equal(wait(new Int32Array(loads), 9, 76), "not-equal");
  });

  it("wakes through one map who sleeps on another", async () => {
    const { buffer, fd } = createSharedMemory(4096);
    const waiting = waitAsync(new Int32Array(mapSharedMemory(fd, 4096, { readOnly: true })), 1000, 0);
    closeSync(fd);
    while (notify(new Int32Array(buffer), 1000) === 0) await turn();
    assert.equal(await waiting.value, "ok");
  });

  it("is unmapped when it is no longer reachable", async () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const before = mappings();
    for (let n = 0; n < 20; n++) closeSync(createSharedMemory(4096).fd);
    // Mocha's deadline ends this if it never happens.
    while (mappings() > before) {
      collect();
      await turn();
    }
  });

  it("refuses what cannot be mapped", () => {
    for (const bad of [0, -1, 1.5, NaN, 2 ** 60]) {
      assert.throws(() => createSharedMemory(bad), { code: "ERR_OUT_OF_RANGE" });
      assert.throws(() => mapSharedMemory(0, bad), { code: "ERR_OUT_OF_RANGE" });
    }
    assert.throws(() => createSharedMemory("1" as unknown as number), { code: "ERR_INVALID_ARG_TYPE" });
    for (const bad of [-1, 0.5, 2 ** 31]) {
      assert.throws(() => mapSharedMemory(bad, 1), { code: "ERR_OUT_OF_RANGE" });
    }
    assert.throws(() => mapSharedMemory(99_999, 4096), {
      code: "ERR_ATOMICS_WAIT_SYSTEM",
      message: /EBADF|9/,
    });
    const file = openSync(import.meta.filename, "r");
    assert.throws(() => mapSharedMemory(file, 1), { code: "ERR_ATOMICS_WAIT_SYSTEM", message: /seals/ });
    closeSync(file);
    const { fd } = createSharedMemory(4096);
    assert.throws(() => mapSharedMemory(fd, 4097), {
      code: "ERR_ATOMICS_WAIT_SYSTEM",
      message: /4096 bytes/,
    });
    closeSync(fd);
  });
});

describe("two processes", () => {
  it("wake each other, a thousand times", async () => {
    const rounds = 1000;
    const { buffer, fd } = createSharedMemory(4096);
    const view = new Int32Array(buffer);
    const end = ending(child("pong.mjs", String(rounds), fd));
    closeSync(fd);
    for (let round = 0; round < rounds; round++) {
      Atomics.store(view, 0, 2 * round + 1);
      notify(view, 0);
      while (Atomics.load(view, 0) !== 2 * round + 2) {
        assert.notEqual(wait(view, 0, 2 * round + 1, 15_000), "timed-out");
      }
    }
    assert.deepEqual(await end, { code: 0, signal: null });
  });

  it("wait for each other without blocking, on a read-only map", async () => {
    const { buffer, fd } = createSharedMemory(4096);
    const view = new Int32Array(buffer);
    const end = ending(child("read-only.mjs", "", fd));
    closeSync(fd);
    let woken = 0;
    while (woken === 0) {
      await turn();
      woken = notify(view, 5);
    }
    assert.equal(woken, 1);
    // Woken without a change: the child looks at the word and says so.
    assert.deepEqual(await end, { code: 4, signal: null });
  });

  it("see a change and its notification", async () => {
    const { buffer, fd } = createSharedMemory(4096);
    const view = new Int32Array(buffer);
    const end = ending(child("read-only.mjs", "", fd));
    closeSync(fd);
    Atomics.store(view, 5, 42);
    notify(view, 5);
    assert.deepEqual(await end, { code: 0, signal: null });
  });

  it("cannot store through a read-only map", async () => {
    const { buffer, fd } = createSharedMemory(4096);
    const end = await ending(child("read-only.mjs", "store", fd));
    closeSync(fd);
    assert.deepEqual(end, { code: null, signal: "SIGSEGV" });
    assert.equal(new Int32Array(buffer)[6], 0);
  });
});
