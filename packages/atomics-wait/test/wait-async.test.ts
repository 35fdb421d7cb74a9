import assert from "node:assert/strict";
import { setImmediate as turn } from "node:timers/promises";

import { notify, pending, setMaxPending, defaultMaxPending, waitAsync } from "../src/index.ts";
import { child, ending, worker } from "./processes.ts";

function words(count = 128): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(4 * count));
}

/** The promise of a wait that must be asynchronous. */
function promised(...args: Parameters<typeof waitAsync>): Promise<string> {
  const result = waitAsync(...args);
  assert.equal(result.async, true);
  return result.value as Promise<string>;
}

async function wakeOne(view: Int32Array, index: number): Promise<void> {
  while (notify(view, index, 1) === 0) await turn();
}

describe("waitAsync", () => {
  // A pending wait does not keep the event loop running; mocha must.
  let alive: NodeJS.Timeout;
  before(() => void (alive = setInterval(() => {}, 1000)));
  after(() => clearInterval(alive));
  afterEach(() => assert.equal(pending(), 0));

  it("answers at once where there is nothing to wait for", () => {
    const view = words();
    assert.deepEqual(waitAsync(view, 0, 1), { async: false, value: "not-equal" });
    assert.deepEqual(waitAsync(view, 0, 0, 0), { async: false, value: "timed-out" });
    assert.deepEqual(waitAsync(view, 0, 0, { timeout: -1 }), { async: false, value: "timed-out" });
  });

  it("is woken by a notification", async () => {
    const view = words();
    const waiting = promised(view, 3, 0);
    assert.equal(pending(), 1);
    await wakeOne(view, 3);
    assert.equal(await waiting, "ok");
  });

  it("never misses a change that is notified", async () => {
    const view = words();
    for (let round = 0; round < 300; round++) {
      const waiting = promised(view, 0, round);
      Atomics.store(view, 0, round + 1);
      notify(view, 0);
      assert.equal(await waiting, "ok");
    }
  });

  it("times out", async () => {
    const view = words();
    assert.equal(await promised(view, 0, 0, 5), "timed-out");
    assert.equal(await promised(view, 0, 0, { timeout: 0.5 }), "timed-out");
  });

  it("wakes as many as it is told, each once", async () => {
    const view = words();
    const results: string[] = [];
    const waits = [0, 1, 2].map(() => promised(view, 0, 0).then((result) => results.push(result)));
    for (const _ of waits) await wakeOne(view, 0);
    await Promise.all(waits);
    assert.equal(notify(view, 0), 0);
    assert.deepEqual(results, ["ok", "ok", "ok"]);
  });

  it("is ended by a signal", async () => {
    const view = words();
    const reason = new Error("enough");
    const controller = new AbortController();
    const waiting = promised(view, 0, 0, { signal: controller.signal });
    const other = promised(view, 0, 0, { timeout: 1e9 });
    controller.abort(reason);
    await assert.rejects(waiting, (error) => error === reason);
    assert.equal(pending(), 1, "the other wait of the word goes on");
    await wakeOne(view, 0);
    assert.equal(await other, "ok");
    assert.equal(notify(view, 0), 0);
    assert.throws(
      () => waitAsync(view, 0, 0, { signal: controller.signal }),
      (error) => error === reason,
    );
  });

  it("does not lose a wake to a signal", async () => {
    const view = words();
    for (let round = 0; round < 100; round++) {
      const controller = new AbortController();
      const waiting = promised(view, 0, 0, { signal: controller.signal });
      await wakeOne(view, 0);
      controller.abort();
      assert.equal(await waiting, "ok");
    }
  });

  it("has a limit", async () => {
    const view = words();
    const all = Array.from({ length: defaultMaxPending }, (_, n) => promised(view, n, 0));
    assert.throws(() => waitAsync(view, 100, 0), { code: "ERR_ATOMICS_WAIT_TOO_MANY", message: /^64 async/ });
    setMaxPending(defaultMaxPending + 1);
    all.push(promised(view, 100, 0));
    setMaxPending(defaultMaxPending);
    for (let n = 0; n < defaultMaxPending; n++) await wakeOne(view, n);
    await wakeOne(view, 100);
    assert.deepEqual([...new Set(await Promise.all(all))], ["ok"]);
    assert.throws(() => setMaxPending(0), RangeError);
    assert.throws(() => setMaxPending("1" as unknown as number), TypeError);
  });

  it("refuses bad arguments by name", () => {
    const view = words();
    assert.throws(() => waitAsync(view, 128, 0), { code: "ERR_OUT_OF_RANGE" });
    assert.throws(() => waitAsync([] as unknown as Int32Array, 0, 0), { code: "ERR_INVALID_ARG_TYPE" });
    assert.throws(() => waitAsync(view, 0, 0, "1" as unknown as number), { message: /^options must be/ });
    assert.throws(() => waitAsync(view, 0, 0, { signal: {} as AbortSignal }), {
      message: /^options\.signal/,
    });
    assert.throws(() => waitAsync(view, 0, 0, { timeout: "1" as unknown as number }), {
      message: /^timeout/,
    });
  });

  it("does not keep a process alive", async () => {
    assert.deepEqual(await ending(child("pending.mjs", "")), { code: 0, signal: null });
    assert.deepEqual(await ending(child("pending.mjs", "exit")), { code: 7, signal: null });
  });

  it("ends with its worker, a hundred times", async function () {
    this.timeout(120_000);
    const view = words();
    for (let round = 0; round < 100; round++) {
      const sleeper = await worker({ buffer: view.buffer, how: "waitAsync", count: 4 });
      assert.equal(await sleeper.terminate(), 1);
      for (let n = 0; n < 5; n++) assert.equal(notify(view, n), 0, "no thread is left");
    }
  });
});
