import assert from "node:assert/strict";
import { once } from "node:events";
import { setImmediate as turn } from "node:timers/promises";

import { notify, wait } from "../src/index.ts";
import { worker } from "./processes.ts";

function words(count = 4): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(4 * count));
}

/** Wakes one sleeper, as soon as there is one. */
async function wakeOne(view: Int32Array, index: number): Promise<void> {
  while (notify(view, index, 1) === 0) await turn();
}

describe("wait", () => {
  it("does not wait for a word that has another value", () => {
    const view = words();
    view[2] = -7;
    assert.equal(wait(view, 2, 0), "not-equal");
    assert.equal(wait(view, 2, -8, 1e9), "not-equal");
    assert.equal(
      wait(view, 2, 2 ** 32 - 7, 0),
      "timed-out",
      "values are 32-bit numbers, as those of Atomics",
    );
  });

  it("times out", () => {
    const view = words();
    assert.equal(wait(view, 0, 0, 0), "timed-out");
    assert.equal(wait(view, 0, 0, -5), "timed-out");
    assert.equal(wait(view, 0, 0, 0.5), "timed-out");
    assert.equal(wait(view, 0, 0, 120), "timed-out", "over more than one slice");
  });

  it("waits on an ArrayBuffer that is not shared", () => {
    assert.equal(wait(new Int32Array(4), 3, 0, 1), "timed-out");
  });

  it("is woken from another thread", async () => {
    const view = words();
    const sleeper = await worker({ buffer: view.buffer, how: "wait" });
    // Both from the start: a worker's last message and its exit can come in one turn.
    const [message, exit] = [once(sleeper, "message"), once(sleeper, "exit")];
    await wakeOne(view, 0);
    assert.deepEqual([await message, await exit], [["ok"], [0]]);
  });

  it("ends when the word changes and nobody notifies", async () => {
    const view = words();
    const sleeper = await worker({ buffer: view.buffer, how: "wait" });
    const [message, exit] = [once(sleeper, "message"), once(sleeper, "exit")];
    Atomics.store(view, 0, 1);
    // It had not begun to wait, or saw the change at its next slice.
    assert.match(String((await message)[0]), /^(ok|not-equal)$/);
    assert.deepEqual(await exit, [0]);
  });

  it("can be terminated", async () => {
    const view = words();
    const sleeper = await worker({ buffer: view.buffer, how: "wait" });
    assert.equal(await sleeper.terminate(), 1);
    assert.equal(notify(view, 0), 0, "nobody sleeps any more");
  });

  it("refuses bad arguments by name", () => {
    const view = words();
    const detached = new Int32Array(4);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    const type = { name: "TypeError", code: "ERR_INVALID_ARG_TYPE" };
    const range = { name: "RangeError", code: "ERR_OUT_OF_RANGE" };
    for (const bad of [null, undefined, 1, {}, [], new Uint32Array(4), new DataView(new ArrayBuffer(8))]) {
      assert.throws(() => wait(bad as Int32Array, 0, 0, 0), {
        ...type,
        message: /^view must be an Int32Array/,
      });
    }
    for (const bad of [-1, 4, 1.5, NaN, Infinity, 2 ** 53]) {
      assert.throws(() => wait(view, bad, 0, 0), {
        ...range,
        message: /^index must be an integer from 0 to 3/,
      });
    }
    assert.throws(() => wait(view, "0" as unknown as number, 0, 0), {
      ...type,
      message: /^index must be a number/,
    });
    assert.throws(() => wait(view, 0, 0n as unknown as number, 0), { ...type, message: /^value must be/ });
    assert.throws(() => wait(view, 0, 0, "1" as unknown as number), { ...type, message: /^timeout must be/ });
    assert.throws(() => wait(detached, 0, 0, 0), { name: "TypeError", message: /detached/ });
    assert.throws(() => wait(new Int32Array(0), 0, 0, 0), range);
  });
});

describe("notify", () => {
  it("wakes nobody where nobody waits", () => {
    const view = words();
    assert.equal(notify(view, 0), 0);
    assert.equal(notify(view, 0, 5), 0);
  });

  it("wakes as many as it is told, each once", async () => {
    const view = words();
    const sleepers = await Promise.all(
      Array.from({ length: 3 }, () => worker({ buffer: view.buffer, how: "wait" })),
    );
    const messages = sleepers.map((sleeper) => once(sleeper, "message"));
    assert.equal(notify(view, 0, 0), 0);
    assert.equal(notify(view, 1), 0, "another word");
    for (const _ of sleepers) await wakeOne(view, 0);
    assert.equal(notify(view, 0), 0);
    assert.deepEqual(await Promise.all(messages), [["ok"], ["ok"], ["ok"]]);
    await Promise.all(sleepers.map((sleeper) => sleeper.terminate()));
  });

  it("refuses bad arguments by name", () => {
    const view = words();
    assert.throws(() => notify(view, 4), { code: "ERR_OUT_OF_RANGE" });
    assert.throws(() => notify(view, 0, "1" as unknown as number), { code: "ERR_INVALID_ARG_TYPE" });
    assert.equal(notify(view, 0, -1), 0);
    assert.equal(notify(view, 0, NaN), 0);
  });
});
