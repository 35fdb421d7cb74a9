import assert from "node:assert/strict";

import * as fc from "fast-check";

import {
  type Frame,
  type Gap,
  group,
  layout,
  Ring,
  type RingLoan,
  type RingReader,
  type RingWriter,
  unicast,
} from "../src/index.ts";
import { pattern } from "./scenario.ts";

// Random operations by three attachments, against a plain list of what was published.

interface Sent {
  stamp: number;
  index: number;
  sender: number;
  to: bigint[];
  seed: number;
  length: number;
}

const sizes = { attachments: 3, slots: 64, headers: 64, ringBytes: 65_536 };
const groups = [1, 2, 3];

class Model {
  readonly ring: Ring = Ring.create(sizes);
  readonly writers: RingWriter[] = [0, 1, 2].map((id) => this.ring.writer(id));
  readonly readers: (RingReader | undefined)[] = [undefined, undefined, undefined];
  /** Groups and next place in the list, for each reader. */
  readonly expected: { addresses: Set<bigint>; next: number }[] = [];
  readonly leased: [Frame, Sent][][] = [[], [], []];
  readonly loans: { loan: RingLoan; sent: Omit<Sent, "stamp"> }[] = [];
  readonly order: Sent[] = [];
  seeds = 0;

  join(id: number, joined: number[]): void {
    if (this.readers[id] !== undefined) return;
    this.readers[id] = this.ring.reader(id, { groups: joined });
    const addresses = new Set([unicast(id), (1n << 48n) - 1n, ...joined.map(group)]);
    this.expected[id] = { addresses, next: this.order.length };
    assert.equal(this.readers[id].position, this.ring.tail);
  }

  leave(id: number): void {
    this.checkLeases(id);
    this.readers[id]?.close();
    this.readers[id] = undefined;
  }

  /** Whether a publisher may have found no room: something is lent, or a reader has not said how far it is. */
  held(): boolean {
    return (
      this.loans.length > 0 ||
      this.readers.some(
        (reader, id) =>
          reader && this.ring.sender(id)!.memory.load(layout.payload.cursor) < BigInt(this.ring.tail),
      )
    );
  }

  record(stamp: number, sent: Omit<Sent, "stamp">): void {
    this.order.push({ stamp, ...sent });
    const before = this.order.at(-2);
    if (sent.index === 0) assert.equal(stamp, (before?.stamp ?? 0) + 1, "the order has no holes");
    else assert.equal(stamp, before?.stamp, "a batch has one stamp");
  }

  send(id: number, messages: { to: bigint[]; length: number }[]): void {
    const held = this.held();
    const all = messages.map(({ to, length }, index) => ({
      index,
      sender: id,
      to,
      seed: ++this.seeds,
      length,
    }));
    const result = this.writers[id]!.batch(
      all.map(({ to, seed, length }) => ({ to: to.length === 1 ? to[0]! : to, data: pattern(seed, length) })),
    );
    if (result.status === "published") for (const sent of all) this.record(result.stamp, sent);
    else assert.ok(held, `nobody holds anything, and yet: ${JSON.stringify(result)}`);
  }

  loan(id: number, to: bigint, length: number): void {
    const held = this.held();
    const loan = this.writers[id]!.loan(to, length);
    if (loan.status === "would-block") return assert.ok(held);
    const seed = ++this.seeds;
    loan.bytes.set(pattern(seed, length));
    this.loans.push({ loan, sent: { index: 0, sender: id, to: [to], seed, length } });
  }

  settle(nth: number, publish: boolean, shorter: number): void {
    const [entry] = this.loans.splice(nth % Math.max(this.loans.length, 1), 1);
    if (entry === undefined) return;
    if (!publish) return entry.loan.abandon();
    const length = Math.max(entry.sent.length - shorter, 0);
    const result = entry.loan.publish({ length });
    if (result.status === "published") this.record(result.stamp, { ...entry.sent, length });
    else this.loans.push(entry);
  }

  read(id: number, count: number): void {
    const reader = this.readers[id];
    if (reader === undefined) return;
    const expected = this.expected[id]!;
    for (let n = 0; n < count; n++) {
      const message: Frame | Gap | undefined = reader.next();
      let sent: Sent | undefined;
      do sent = this.order[expected.next++];
      while (sent !== undefined && !sent.to.some((to) => expected.addresses.has(to)));
      if (message === undefined) {
        assert.equal(sent, undefined, "the reader has seen everything");
        expected.next = this.order.length;
        return;
      }
      assert.ok(message.step === "frame" && sent !== undefined);
      assert.deepEqual(
        [message.stamp, message.index, message.sender, message.destinations],
        [sent.stamp, sent.index, sent.sender, sent.to],
      );
      this.leased[id]!.push([message, sent]);
      this.check(message, sent);
    }
  }

  check(message: Frame, sent: Sent): void {
    assert.deepEqual(message.copy(), pattern(sent.seed, sent.length));
    assert.ok(message.intact());
  }

  checkLeases(id: number): void {
    for (const [message, sent] of this.leased[id]!.splice(0)) this.check(message, sent);
  }

  release(id: number): void {
    this.checkLeases(id);
    this.readers[id]?.release();
  }
}

const who = fc.nat({ max: 2 });
const address = fc.oneof(fc.constantFrom(...groups.map(group), (1n << 48n) - 1n), who.map(unicast));
const length = fc.oneof(fc.nat({ max: 80 }), fc.nat({ max: 3000 }), fc.integer({ min: 12_000, max: 16_300 }));
const message = fc.record({ to: fc.array(address, { minLength: 1, maxLength: 3 }), length });
type Act = (model: Model) => void;
const act: fc.Arbitrary<Act> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(who, message).map(
      ([id, one]): Act =>
        (m) =>
          m.send(id, [one]),
    ),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(
        who,
        fc.array(fc.record({ to: fc.tuple(address), length: fc.nat({ max: 300 }) }), {
          minLength: 1,
          maxLength: 5,
        }),
      )
      .map(
        ([id, all]): Act =>
          (m) =>
            m.send(id, all),
      ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(who, message, fc.integer({ min: 1, max: 70 })).map(([id, one, times]): Act => (m) => {
      for (let n = 0; n < times; n++) m.send(id, [{ to: one.to, length: one.length % 100 }]);
    }),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(who, address, length).map(
      ([id, to, bytes]): Act =>
        (m) =>
          m.loan(id, to, bytes),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.tuple(fc.nat(), fc.boolean(), fc.nat({ max: 9 })).map(
      ([n, yes, less]): Act =>
        (m) =>
          m.settle(n, yes, less),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.tuple(who, fc.nat({ max: 40 })).map(
      ([id, count]): Act =>
        (m) =>
          m.read(id, count),
    ),
  },
  {
    weight: 4,
    arbitrary: who.map(
      (id): Act =>
        (m) =>
          m.release(id),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(who, fc.subarray(groups)).map(
      ([id, joined]): Act =>
        (m) =>
          m.join(id, joined),
    ),
  },
  {
    weight: 1,
    arbitrary: who.map(
      (id): Act =>
        (m) =>
          m.leave(id),
    ),
  },
);

describe("a ring and a plain list", () => {
  it("agree on every order, and no lease is broken", () => {
    fc.assert(
      fc.property(fc.array(act, { minLength: 20, maxLength: 120 }), (acts) => {
        const model = new Model();
        for (const one of acts) one(model);
        // At the end everyone reads to the end, and then there is room again.
        while (model.loans.length > 0) model.settle(0, false, 0);
        for (const id of [0, 1, 2]) {
          model.read(id, Infinity);
          model.release(id);
        }
        model.send(0, [{ to: [group(1)], length: 16_384 }]);
      }),
      { numRuns: 400 },
    );
  });
});
