import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setImmediate as turn } from "node:timers/promises";
import { Worker } from "node:worker_threads";

import * as waiting from "atomics-wait";

import { group, Ring } from "../src/index.ts";

const programs = join(import.meta.dirname, "programs");
const sizes = { attachments: 4, slots: 256, headers: 64, ringBytes: 65_536 };

describe("two writers and two readers", () => {
  it("in workers: both readers see one sequence", async () => {
    const ring = Ring.create(sizes);
    const count = 20_000;
    const start = (role: string, id: number, n: number): Worker =>
      new Worker(join(programs, "worker.mjs"), {
        workerData: { buffer: ring.buffer, role, id, count: n },
        execArgv: [],
      });
    const readers = [2, 3].map((id) => start("read", id, 2 * count));
    await Promise.all(readers.map((reader) => once(reader, "message")));
    const digests = readers.map((reader) => once(reader, "message"));
    const exits = readers.map((reader) => once(reader, "exit"));
    const writers = [0, 1].map((id) => once(start("write", id, count), "exit"));
    assert.deepEqual(await Promise.all([...writers, ...exits]), [[0], [0], [0], [0]]);
    const [one, two] = await Promise.all(digests);
    assert.deepEqual(one, two);
  });

  it("in processes: both readers see one sequence", async () => {
    const bytes = Ring.bytes(sizes);
    const { buffer, fd } = waiting.createSharedMemory(bytes);
    Ring.create({ ...sizes, buffer });
    const count = 5000;
    const start = (role: string, id: number, n: number): ChildProcess =>
      spawn(process.execPath, [join(programs, "process.mjs"), ...[bytes, role, id, n].map(String)], {
        stdio: ["ignore", "pipe", "inherit", fd],
        timeout: 18_000,
        killSignal: "SIGKILL",
      });
    const readers = [2, 3].map((id) => start("read", id, 2 * count));
    const lines = readers.map((reader) => createInterface(reader.stdout!)[Symbol.asyncIterator]());
    for (const line of lines) assert.equal((await line.next()).value, "ready");
    const writers = [0, 1].map((id) => start("write", id, count));
    closeSync(fd);
    const exits = await Promise.all([...readers, ...writers].map((child) => once(child, "exit")));
    assert.deepEqual(
      exits,
      [0, 1, 2, 3].map(() => [0, null]),
    );
    const [one, two] = await Promise.all(lines.map((line) => line.next()));
    assert.match(String(one!.value), /^\d+$/);
    assert.equal(one!.value, two!.value);
  });
});

describe("a reader of the event loop", () => {
  it("is woken by a publish from a worker", async () => {
    const ring = Ring.create(sizes);
    const reader = ring.reader(3, { groups: [1] });
    const alive = setInterval(() => {}, 1000);
    assert.equal(await reader.waitAsync(1), false);
    const writer = new Worker(join(programs, "worker.mjs"), {
      workerData: { buffer: ring.buffer, role: "write", id: 0, count: 500 },
      execArgv: [],
    });
    const exit = once(writer, "exit");
    let seen = 0;
    while (seen < 500) {
      await reader.waitAsync();
      seen += reader.poll(() => {});
    }
    clearInterval(alive);
    assert.deepEqual(await exit, [0]);
    assert.equal(ring.sequencer.sleepers.any(255), false, "it sleeps no more");
  });
});

describe("a worker that is terminated", () => {
  it("holds nobody up once it is detached", async () => {
    const ring = Ring.create(sizes);
    const reader = new Worker(join(programs, "worker.mjs"), {
      workerData: { buffer: ring.buffer, role: "read", id: 2, count: 1 },
      execArgv: [],
    });
    await once(reader, "message");
    // Asleep in its wait: its bit is set.
    while (!ring.sequencer.sleepers.any(255)) await turn();
    await reader.terminate();
    const writer = ring.writer(0);
    let full;
    do full = writer.publish(group(1), new Uint8Array(1000));
    while (full.status === "published");
    assert.equal(full.holder?.id, 2);
    ring.detach(2);
    for (let n = 0; n < 1000; n++) {
      const { status } = writer.publish(group(1), new Uint8Array(1000));
      assert.equal(status, "published");
    }
    assert.equal(ring.sequencer.sleepers.any(255), false);
  });
});
