import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import {
  bucketOf,
  bucketOfAll,
  decodeMemberWord,
  decodeSlotWord,
  encodeMemberWord,
  encodeSlotWord,
  Geometry,
  lapsAhead,
  layout,
  type MemberWord,
  sequencerBytes,
} from "../src/index.ts";
import { hex, Machine, payloadWordsOf, type Scenario, wordsOf } from "./scenario.ts";

/**
 * After a change of the layout or of a rule, or to add a scenario (its steps, without what they give): runs the steps and
 * writes what came of them. `oxfmt` makes the files readable; then the Rust test has to agree.
 */
const record = process.env["RECORD_VECTORS"] === "1";
const directory = join(import.meta.dirname, "../../../crates/shm-bus-ring/tests/vectors");

function load<T>(name: string): T {
  return JSON.parse(readFileSync(join(directory, `${name}.json`), "utf8")) as T;
}

interface Words {
  slotWords: {
    stamp: number;
    slots: number;
    sender: number;
    index: number;
    bucket: number;
    word: string;
    laps: [number, number][];
  }[];
  buckets: [string, number][];
  bucketsOfAll: [string[], number][];
  memberWords: (MemberWord & { word: string })[];
  harmless: { word: string; attach: string; reader: string; policy: string };
  geometries: {
    headers: number;
    ringBytes: number;
    headBytes: number;
    memoryBytes: number;
    mappedBytes: number;
    maxFrame: number;
    entries: [number, number | null][];
    cells: [number, number][];
    ringOffsets: [string, number][];
  }[];
  refusedHeaders: number[];
  refusedRingBytes: number[];
}

describe("the vectors that the Rust crate is tested with", () => {
  it("have every constant of the layout", () => {
    const vectors = load<{ constants: Record<string, string>; sequencerBytes: [number, number][] }>("layout");
    const own: Record<string, string> = {};
    for (const [name, value] of Object.entries(layout)) {
      if (typeof value !== "object") own[name] = hex(value);
      else for (const [inner, offset] of Object.entries(value)) own[`${name}.${inner}`] = hex(offset);
    }
    assert.deepEqual(own, vectors.constants);
    for (const [slots, bytes] of vectors.sequencerBytes) assert.equal(sequencerBytes(slots), bytes);
  });

  it("have the same slot words", () => {
    for (const { stamp, slots, word, laps, ...fields } of load<Words>("words").slotWords) {
      assert.equal(hex(encodeSlotWord(stamp, slots, fields)), word);
      assert.deepEqual(decodeSlotWord(BigInt(word)), fields);
      const high = Number(BigInt(word) >> 32n);
      for (const [other, ahead] of laps) assert.equal(lapsAhead(high, other, slots), ahead);
    }
  });

  it("have the same buckets", () => {
    const vectors = load<Words>("words");
    for (const [address, bucket] of vectors.buckets) assert.equal(bucketOf(BigInt(address)), bucket, address);
    for (const [list, bucket] of vectors.bucketsOfAll) assert.equal(bucketOfAll(list.map(BigInt)), bucket);
  });

  it("have the same member words", () => {
    const { memberWords, harmless } = load<Words>("words");
    for (const { word, ...fields } of memberWords) {
      assert.equal(hex(encodeMemberWord(fields)), word);
      assert.deepEqual(decodeMemberWord(BigInt(word)), fields);
    }
    const { attach, reader, policy } = decodeMemberWord(BigInt(harmless.word));
    assert.deepEqual({ word: harmless.word, attach, reader, policy }, harmless);
  });

  it("have the same geometries", () => {
    const { geometries, refusedHeaders, refusedRingBytes } = load<Words>("words");
    for (const { headers, ringBytes, entries, cells, ringOffsets, ...sizes } of geometries) {
      const geometry = new Geometry(headers, ringBytes);
      const { headBytes, memoryBytes, mappedBytes, maxFrame } = geometry;
      assert.deepEqual({ headBytes, memoryBytes, mappedBytes, maxFrame }, sizes);
      for (const [index, offset] of entries) assert.equal(geometry.entry(index) ?? null, offset);
      for (const [n, offset] of cells) assert.equal(geometry.cell(n), offset);
      for (const [text, offset] of ringOffsets) {
        const position = BigInt(text);
        assert.equal(geometry.ringOffset(Number(position >> 32n), Number(position & 0xffff_ffffn)), offset);
      }
    }
    for (const bad of refusedHeaders) assert.throws(() => new Geometry(bad, 65_536), /^RingError: headers/);
    for (const bad of refusedRingBytes) assert.throws(() => new Geometry(64, bad), /^RingError: ringBytes/);
  });

  for (const file of readdirSync(directory).toSorted()) {
    const name = file.replace(/\.json$/, "");
    if (name === file || name === "layout" || name === "words") continue;
    it(`have the same memory after the scenario ${name}`, () => {
      const scenario = load<Scenario>(name);
      const machine = new Machine(scenario);
      if (record) {
        const steps = scenario.steps.map((step) => ({ ...step, gives: machine.run(step) }));
        const sequencer = wordsOf(machine.sequencer.memory);
        const payloads = machine.memories.map((memory) => payloadWordsOf(memory, scenario.headers));
        writeFileSync(join(directory, file), JSON.stringify({ ...scenario, steps, sequencer, payloads }));
        return;
      }
      for (const [i, step] of scenario.steps.entries()) {
        assert.deepEqual(machine.run(step), step.gives, `step ${i}: ${JSON.stringify(step)}`);
      }
      assert.deepEqual(wordsOf(machine.sequencer.memory), scenario.sequencer);
      const payloads = machine.memories.map((memory) => payloadWordsOf(memory, scenario.headers));
      assert.deepEqual(payloads, scenario.payloads);
    });
  }
});
