import assert from "node:assert/strict";

import {
  everyone,
  type Frame,
  Geometry,
  group,
  layout,
  Memory,
  PageReader,
  readCounters,
  Ring,
  RingError,
  type RingReader,
  Sequencer,
  sequencerBytes,
  unicast,
} from "../src/index.ts";

const small = { slots: 64, headers: 64, ringBytes: 65_536 };
const text = (string: string): Uint8Array => new TextEncoder().encode(string);

function all(reader: RingReader): string[] {
  const seen: string[] = [];
  reader.poll((message) => {
    seen.push(
      message.step === "gap"
        ? `gap ${message.from}-${message.to}`
        : `${message.stamp}.${message.index} ${new TextDecoder().decode(message.data)}`,
    );
  });
  return seen;
}

describe("a ring", () => {
  it("delivers to addresses, groups and everyone, in one order", () => {
    const ring = Ring.create({ attachments: 3, ...small });
    const [one, two] = [ring.reader(1, { groups: [7] }), ring.reader(2, { groups: [8] })];
    const [a, b] = [ring.writer(0), ring.writer(1)];
    assert.deepEqual(a.publish(group(7), text("seven")), { status: "published", stamp: 1, wake: undefined });
    b.publish(group(8), text("eight"));
    a.publish(unicast(2), text("to two"));
    b.publish(everyone, text("to all"));
    a.publish([group(7), unicast(2), group(9)], text("to both"));
    b.publish(group(9), text("to none"));
    assert.equal(one.lag, 6);
    assert.deepEqual(all(one), ["1.0 seven", "4.0 to all", "5.0 to both"]);
    assert.deepEqual(all(two), ["2.0 eight", "3.0 to two", "4.0 to all", "5.0 to both"]);
    assert.equal(one.lag, 0);
    assert.equal(ring.tail, 7);
  });

  it("publishes a batch as one event", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(1, { groups: [1] });
    const messages = ["a", "b", "c"].map((data) => ({ to: group(data === "b" ? 2 : 1), data: text(data) }));
    assert.equal(ring.writer(0).batch(messages).status, "published");
    assert.deepEqual(all(reader), ["1.0 a", "1.2 c"]);
  });

  it("tells sender, topic and time", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(0);
    ring.writer(1).publish(unicast(0), text("x"), { topic: 2n ** 64n - 1n, time: 12n });
    const message = reader.next() as Frame;
    const { sender, topic, time, destinations, kind, serial } = message;
    assert.deepEqual(
      { sender, topic, time, destinations, kind, serial },
      { sender: 1, topic: 2n ** 64n - 1n, time: 12n, destinations: [0n], kind: "message", serial: 0 },
    );
  });

  it("lends space to be written in place", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(1, { groups: [1] });
    const writer = ring.writer(0);
    const loan = writer.loan([group(1), group(2)], 100);
    assert.ok(loan.status === "loaned");
    assert.equal(loan.bytes.length, 100);
    loan.bytes.set(text("in place"));
    assert.equal(loan.publish({ length: 8 }).status, "published");
    assert.throws(() => loan.publish(), { code: "ERR_RING_STATE" });
    loan.abandon();
    {
      using given = writer.loan(group(1), 1000) as Disposable & { status: string };
      assert.equal(given.status, "loaned");
    }
    writer.publish(group(1), text("next"));
    assert.deepEqual(all(reader), ["1.0 in place", "2.0 next"]);
  });

  it("finds no room and says whose fault it is, and loses nothing", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(1, { groups: [1] });
    const writer = ring.writer(0);
    for (let n = 1; n <= 63; n++) writer.publish(group(1), text(String(n)));
    assert.equal(writer.publish(group(1), text("64")).status, "published");
    const full = { status: "would-block", shortage: "headers", stamp: 65, holder: { id: 1, cursor: 1 } };
    assert.deepEqual(writer.publish(group(1), text("65")), full);
    assert.equal(writer.waitForSpace(0), false);
    assert.equal(all(reader).length, 64);
    assert.equal(writer.waitForSpace(0), true);
    assert.equal(writer.publish(group(1), text("65")).status, "published");
    assert.deepEqual(all(reader), ["65.0 65"]);
  });

  it("frees what a slow reader of another group does not hold", () => {
    const ring = Ring.create({ attachments: 3, ...small, slots: 4096 });
    const [fast, slow] = [ring.reader(1, { groups: [1] }), ring.reader(2, { groups: [2] })];
    const writer = ring.writer(0);
    for (let n = 0; n < 1000; n++) {
      assert.equal(writer.publish(group(1), new Uint8Array(1000)).status, "published");
      if (n % 16 === 15) fast.poll(() => {});
    }
    assert.equal(slow.lag, 1000);
  });

  it("tells a lossy reader exactly what it has missed", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(1, { groups: [1], overload: "lossy" });
    const writer = ring.writer(0);
    writer.publish(group(1), text("kept"));
    const kept = reader.next() as Frame;
    assert.ok(kept.intact());
    for (let n = 2; n <= 200; n++)
      assert.equal(writer.publish(group(1), text(String(n))).status, "published");
    assert.ok(!kept.intact(), "its bytes were overwritten, and it says so");
    const [gap, ...rest] = all(reader);
    assert.equal(gap, "gap 2-169");
    assert.deepEqual(
      rest,
      Array.from({ length: 32 }, (_, n) => `${169 + n}.0 ${169 + n}`),
    );
  });

  it("can take a reader's place, and it finds out", () => {
    const ring = Ring.create({ attachments: 3, ...small });
    const [slow, other] = [ring.reader(1, { groups: [1] }), ring.reader(2)];
    const writer = ring.writer(0);
    let full;
    do full = writer.publish(group(1), new Uint8Array(9000));
    while (full.status === "published");
    assert.equal(full.holder?.id, 1);
    assert.equal(ring.evict(full.holder.id), true);
    assert.equal(ring.evict(1), false);
    assert.equal(writer.publish(group(1), new Uint8Array(9000)).status, "published");
    assert.throws(() => slow.release(), { code: "ERR_RING_EVICTED" });
    assert.throws(() => all(slow), { code: "ERR_RING_EVICTED" });
    other.release();
    // It may begin anew.
    const again = ring.reader(1, { groups: [1] });
    writer.publish(group(1), text("again"));
    assert.equal(all(again).length, 1);
    assert.equal(ring.sequencer.members.read(1).evictions, 1);
  });

  it("ends an attachment whose thread is gone", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    ring.reader(1, { groups: [1] });
    const writer = ring.writer(0);
    for (let n = 0; n < 64; n++) writer.publish(group(1), text("x"));
    assert.equal(writer.publish(group(1), text("x")).status, "would-block");
    ring.detach(1);
    assert.equal(writer.publish(group(1), text("x")).status, "published");
    assert.throws(() => ring.writer(1).publish(everyone, text("x")), { code: "ERR_RING_DETACHED" });
    assert.throws(() => ring.reader(1), { code: "ERR_RING_STATE" });
  });

  it("lets publishers go on where a reader has closed", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(1, { groups: [1] });
    const writer = ring.writer(0);
    while (writer.publish(group(1), text("x")).status === "published");
    reader.close();
    reader.close();
    assert.equal(writer.publish(group(1), text("x")).status, "published");
    assert.throws(() => reader.next(), { code: "ERR_RING_STATE" });
    assert.deepEqual(all(ring.reader(1, { groups: [1] })), []);
  });

  it("skips a forged slot and says so", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const violations: string[] = [];
    const reader = ring.reader(1, {
      groups: [1],
      onViolation: (v) => violations.push(`${v.reason} ${v.stamp}`),
    });
    const writer = ring.writer(0);
    writer.publish(group(1), text("a"));
    ring.sequencer.memory.store(
      layout.sequencer.slots + 8 * 1,
      ring.sequencer.memory.load(layout.sequencer.slots + 8) | (5n << 24n),
    );
    writer.publish(group(1), text("b"));
    assert.deepEqual(all(reader), ["2.0 b"]);
    assert.deepEqual(violations, ["unknown-sender 1"]);
  });

  it("keeps payloads whole where the ring stands once, and reads those that were written where it stands twice", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(1, { groups: [1] });
    const writer = ring.writer(0);
    for (let n = 0; n < 500; n++) {
      const data = new Uint8Array((n * 997) % 16_384).fill(n);
      assert.equal(writer.publish(group(1), data).status, "published");
      const message = reader.next() as Frame;
      assert.deepEqual([message.copied, Buffer.compare(message.data, data)], [false, 0]);
      reader.release();
    }
    // As a sender with a mirrored mapping would: in one piece over the end.
    const geometry = new Geometry(64, 65_536);
    const payload = new Memory(new SharedArrayBuffer(geometry.memoryBytes));
    geometry.store(payload);
    const other = Ring.of(ring.sequencer, [payload, ring.sender(1)!.memory]);
    const own = other.writer(0);
    reader.close();
    const again = other.reader(1, { groups: [1] });
    own.publish(group(1), new Uint8Array(100));
    const entry = layout.payload.headers;
    payload.store(entry + layout.header.position, 65_536 - 64);
    payload.bytes.fill(1, geometry.headBytes + 65_536 - 64);
    payload.bytes.fill(2, geometry.headBytes, geometry.headBytes + 36);
    const message = again.next() as Frame;
    assert.equal(message.copied, true);
    assert.deepEqual([...message.data], [...Array<number>(64).fill(1), ...Array<number>(36).fill(2)]);
  });

  it("counts", () => {
    const ring = Ring.create({ attachments: 2, ...small });
    const reader = ring.reader(1, { groups: [1] });
    const writer = ring.writer(0);
    for (let n = 0; n < 66; n++) writer.publish(group(1), new Uint8Array(10));
    all(reader);
    reader.wait(0);
    const start = sequencerBytes(64);
    const sender = ring.sender(0)!.memory;
    assert.deepEqual(readCounters(sender.bytes.slice().buffer), {
      published: 64,
      publishedBytes: 640,
      wouldBlock: 2,
      delivered: 0,
      violations: 0,
      missed: 0,
      sleeps: 0,
    });
    const page = new PageReader(ring.buffer, start + sender.byteLength);
    assert.equal(page.cursor, 65);
    assert.deepEqual([page.counters.delivered, page.counters.sleeps], [64, 1]);
    assert.throws(() => readCounters(new ArrayBuffer(4096)), { code: "ERR_RING_FORMAT" });
    assert.throws(() => readCounters(new ArrayBuffer(8)), { code: "ERR_RING_FORMAT" });
  });

  it("refuses sizes that cannot be, and memory that holds no ring", () => {
    const geometry = { code: "ERR_RING_GEOMETRY" };
    assert.throws(() => Ring.create({ attachments: 0 }), { ...geometry, message: /^attachments must be/ });
    assert.throws(() => Ring.create({ attachments: 1, slots: 65 }), {
      ...geometry,
      message: /^slots must be/,
    });
    assert.throws(() => Ring.create({ attachments: 1, headers: 65 }), {
      ...geometry,
      message: /^headers must/,
    });
    assert.throws(() => Ring.create({ attachments: 1, ringBytes: 1 }), {
      ...geometry,
      message: /^ringBytes/,
    });
    assert.throws(() => Ring.create({ attachments: 1, buffer: new ArrayBuffer(8) }), geometry);
    assert.throws(() => Ring.open(new ArrayBuffer(8)), geometry);
    assert.throws(() => Ring.open(new ArrayBuffer(1 << 20)), { code: "ERR_RING_FORMAT" });
    const ring = Ring.create({ attachments: 2, ...small });
    assert.equal(Ring.open(ring.buffer).attachments, 2);
    assert.throws(() => Ring.open(ring.buffer.slice(0, -8)), geometry);
    ring.sequencer.memory.store(layout.sequencer.version, 2);
    assert.throws(() => Ring.open(ring.buffer), { code: "ERR_RING_FORMAT", message: /version 2/ });
    const writer = ring.writer(0);
    assert.throws(() => writer.publish(everyone, new Uint8Array(16_385)), { code: "ERR_RING_TOO_BIG" });
    assert.throws(() => writer.publish([], new Uint8Array(1)), RangeError);
    const many = Array.from({ length: 33 }, () => ({ to: everyone, data: new Uint8Array(1) }));
    assert.throws(() => writer.batch(many), { code: "ERR_RING_TOO_BIG" });
    writer.publish(everyone, new Uint8Array(1));
    assert.throws(() => ring.writer(0), { code: "ERR_RING_STATE", message: /one for its life/ });
    assert.throws(() => ring.writer(2), { code: "ERR_RING_STATE" });
    ring.reader(1);
    assert.throws(() => ring.reader(1), { code: "ERR_RING_STATE" });
  });

  it("gives a scribbled order up within a lap", () => {
    const ring = Ring.create({ attachments: 1, ...small });
    for (let slot = 0; slot < 64; slot++) {
      ring.sequencer.memory.store(
        layout.sequencer.slots + 8 * slot,
        BigInt.asUintN(64, ~(BigInt(slot) << 40n)),
      );
    }
    assert.throws(
      () => ring.tail,
      (error) => error instanceof RingError && error.code === "ERR_RING_SPOILED",
    );
    ring.sequencer.memory.store(layout.sequencer.hint, 2n ** 64n - 1n);
    assert.throws(() => ring.tail, { code: "ERR_RING_SPOILED" });
  });

  it("finds the tail whatever the hint says", () => {
    const sequencer = Sequencer.create(new Memory(new SharedArrayBuffer(sequencerBytes(64))), 64, 1n);
    for (let stamp = 1; stamp < 400; stamp++) {
      const found = sequencer.find();
      assert.equal(found.stamp, stamp);
      const next = (BigInt((Math.floor(stamp / 64) + 1) % 2 ** 30) << 34n) | 1n;
      assert.ok(sequencer.fill(found, next));
      assert.ok(!sequencer.fill(found, next), "a slot is filled once");
      sequencer.memory.store(layout.sequencer.hint, stamp % 3 === 0 ? stamp + 40 : Math.max(stamp - 300, 1));
    }
  });
});
