import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import {
  DiskStatisticsParser,
  KeyedLinesParser,
  NetworkDevicesParser,
  ProcfsFile,
} from "../src/telemetry/procfs.ts";
import type { ProcfsParser } from "../src/telemetry/procfs.ts";
import { groupNames, openSamplers, publisherGroups } from "../src/telemetry/samplers.ts";
import type { Sampler } from "../src/telemetry/samplers.ts";

const statText = `cpu  100 2 30 4000 50 6 7 8 0 9007199254740991
cpu0 60 1 10 2000 20 3 4 5 0 0
cpu1 40 1 20 2000 30 3 3 3 0 0
intr 81533 0 0 ${"0 ".repeat(300)}5
ctxt 180480
btime 1795224768
processes 3236
procs_running 3
procs_blocked 1
softirq 46939 0 9002 4
`;

const files: Readonly<Record<string, string>> = {
  "proc/stat": statText,
  "proc/loadavg": "0.25 1.50 12.00 2/85 3237\n",
  "proc/schedstat": `version 17
timestamp 4295000000
cpu0 1 0 3 4 5 6 1000 200 30
domain0 MC 03 1 2 3 4 5 6 7 8 9
cpu1 1 0 3 4 5 6 2000 300 40
`,
  "proc/meminfo": `MemTotal:       24684092 kB
MemFree:        24327456 kB
MemAvailable:   24385040 kB
Buffers:             740 kB
Cached:           261364 kB
SwapCached:            9 kB
`,
  "proc/vmstat": "nr_free_pages 7\npgpgin 3\npgpgout 4\npgfault 55\npgmajfault 6\npgfault_extra 9\n",
  "proc/net/dev": `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  eth0:     100       2    3    4    5     6          7         8       10      20   30   40    0     0       0          0
eth1:1000 20 30 40 0 0 0 0 100 200 300 400 0 0 0 0
`,
  "proc/diskstats": `   7       0 loop0 9 9 9 9 9 9 9 9 9 9 9
 254       0 vda 5 1 10 3 7 2 20 4 1 6 8 0 0 0 0 0 0
 254       1 vda1 4 1 8 2 6 2 18 3 1 5 7 0 0 0 0 0 0
 259       0 nvme0n1 50 10 100 30 70 20 200 40 10 60 80
`,
  "proc/pressure/cpu":
    "some avg10=0.94 avg60=0.24 avg300=0.09 total=2272131\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n",
  "proc/pressure/memory": "some avg10=12.50 avg60=0.00 avg300=0.00 total=3\n",
  "sys/block/vda/size": "1\n",
  "sys/block/nvme0n1/size": "1\n",
  "sys/block/loop0/size": "1\n",
};

function fixture(present: Readonly<Record<string, string>>): { root: string; remove(): void } {
  const root = mkdtempSync(join(tmpdir(), "telemetry-"));
  for (const [path, text] of Object.entries(present)) {
    const full = join(root, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, text);
  }
  return {
    root,
    remove: () => {
      rmSync(root, { recursive: true });
    },
  };
}

function valuesOf(sampler: Sampler): Record<string, number> {
  const target = new Float64Array(sampler.fields.length);
  assert.equal(sampler.sample(target), sampler.fields.length);
  return Object.fromEntries(sampler.fields.map((field, index) => [field, target[index] ?? Number.NaN]));
}

function parse(parser: ProcfsParser, text: string): Record<string, number> {
  const bytes = new TextEncoder().encode(text);
  const target = new Float64Array(parser.fields.length + 2).fill(7);
  parser.parse(bytes, bytes.length, target, 1);
  // Nothing is written beside the values.
  assert.equal(target[0], 7);
  assert.equal(target[target.length - 1], 7);
  return Object.fromEntries(parser.fields.map(({ name }, index) => [name, target[index + 1] ?? Number.NaN]));
}

describe("telemetry samplers", () => {
  describe("on fixture files", () => {
    let root: string;
    let remove: () => void;
    let samplers: ReadonlyMap<string, Sampler>;
    let skipped: readonly { path: string; reason: string; group: string }[];

    before(() => {
      ({ root, remove } = fixture(files));
      const opened = openSamplers({ procRoot: join(root, "proc"), sysRoot: join(root, "sys") });
      samplers = new Map(opened.samplers.map((sampler) => [sampler.group, sampler]));
      skipped = opened.skipped;
    });

    after(() => {
      for (const sampler of samplers.values()) sampler.close();
      remove();
    });

    function values(group: string): Record<string, number> {
      const sampler = samplers.get(group);
      assert.ok(sampler);
      return valuesOf(sampler);
    }

    it("reads processors", () => {
      assert.deepEqual(values("cpu"), {
        user: 100,
        nice: 2,
        system: 30,
        idle: 4000,
        iowait: 50,
        irq: 6,
        softirq: 7,
        steal: 8,
        guest: 0,
        guest_nice: 9007199254740991,
        "cpu0.busy": 60 + 1 + 10 + 3 + 4 + 5,
        "cpu1.busy": 40 + 1 + 20 + 3 + 3 + 3,
        interrupts: 81533,
        soft_interrupts: 46939,
        "pressure.some.10s": 0.94,
        "pressure.some.total": 2272131,
        "pressure.full.10s": 0,
        "pressure.full.total": 12,
      });
    });

    it("reads the scheduler", () => {
      assert.deepEqual(values("scheduler"), {
        context_switches: 180480,
        forks: 3236,
        running: 3,
        blocked: 1,
        "load.1min": 0.25,
        "load.5min": 1.5,
        "load.15min": 12,
        "threads.runnable": 2,
        "threads.all": 85,
        "run.time": 3000,
        "run.delay": 500,
        timeslices: 70,
      });
    });

    it("reads memory in bytes, with a line of pressure missing", () => {
      assert.deepEqual(values("memory"), {
        total: 24684092 * 1024,
        free: 24327456 * 1024,
        available: 24385040 * 1024,
        buffers: 740 * 1024,
        cached: 261364 * 1024,
        "pressure.some.10s": 12.5,
        "pressure.some.total": 3,
      });
    });

    it("reads paging", () => {
      assert.deepEqual(values("paging"), { paged_in: 3072, paged_out: 4096, faults: 55, major_faults: 6 });
    });

    it("sums network interfaces but the loopback", () => {
      assert.deepEqual(values("network"), {
        "receive.bytes": 1100,
        "receive.packets": 22,
        "receive.errors": 33,
        "receive.dropped": 44,
        "transmit.bytes": 110,
        "transmit.packets": 220,
        "transmit.errors": 330,
        "transmit.dropped": 440,
        "loopback.bytes": 3193,
        "loopback.packets": 29,
        interfaces: 3,
      });
    });

    it("sums disks without their partitions and without loop devices", () => {
      assert.deepEqual(values("disk"), {
        reads: 55,
        "read.bytes": 110 * 512,
        "read.time": 33,
        writes: 77,
        "write.bytes": 220 * 512,
        "write.time": 44,
        "in.flight": 11,
        "busy.time": 66,
        "queue.time": 88,
      });
    });

    it("names what is missing", () => {
      assert.deepEqual(skipped, [
        {
          group: "disk",
          path: join(root, "proc/pressure/io"),
          reason: "this kernel or container does not have it",
        },
      ]);
    });

    it("describes every value", () => {
      for (const sampler of samplers.values()) {
        assert.equal(new Set(sampler.fields).size, sampler.fields.length, "field names are unique");
        assert.deepEqual(
          sampler.description.fields.map(({ name }) => name),
          sampler.fields,
        );
        assert.equal(sampler.readFailures, 0);
      }
    });

    it("refuses a target that is too short", () => {
      assert.throws(() => samplers.get("paging")?.sample(new Float64Array(3)), {
        name: "RangeError",
        message: "A sample of paging has 4 values, the target 3.",
      });
    });
  });

  it("opens nothing, and does not throw, where there is no procfs", () => {
    const opened = openSamplers({ procRoot: "/nonexistent", sysRoot: "/nonexistent" });
    assert.deepEqual(opened.samplers, []);
    assert.equal(opened.skipped.length, 11);
  });

  it("skips files without anything usable", () => {
    const { root, remove } = fixture({
      "proc/stat": "nothing known\n",
      "proc/vmstat": "",
      "proc/diskstats": " 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n",
    });
    try {
      const opened = openSamplers({ groups: ["cpu", "paging", "disk"], procRoot: join(root, "proc") });
      assert.deepEqual(opened.samplers, []);
      assert.deepEqual(
        opened.skipped.map(({ path, reason }) => [path.slice(root.length), reason]),
        [
          ["/proc/stat", "it has none of the expected lines"],
          ["/proc/pressure/cpu", "this kernel or container does not have it"],
          ["/proc/vmstat", "it is empty"],
          ["/proc/diskstats", "it lists no disks"],
          ["/proc/pressure/io", "this kernel or container does not have it"],
        ],
      );
    } finally {
      remove();
    }
  });

  it("counts partitions too where there is no sysfs", () => {
    const { root, remove } = fixture(files);
    try {
      const opened = openSamplers({
        groups: ["disk"],
        procRoot: join(root, "proc"),
        sysRoot: "/nonexistent",
      });
      const [sampler] = opened.samplers;
      assert.ok(sampler);
      assert.equal(valuesOf(sampler)["reads"], 59);
      sampler.close();
    } finally {
      remove();
    }
  });

  describe("parsers", () => {
    it("follow a line that moved", () => {
      const first = new TextEncoder().encode("a 1\nb 2\nc 3\n");
      const parser = new KeyedLinesParser(first, first.length, [
        { key: "c", wanted: [{ name: "c", unit: "", kind: "gauge", columns: [0] }] },
        { key: "a", wanted: [{ name: "a", unit: "", kind: "gauge", columns: [0] }] },
      ]);
      assert.deepEqual(parse(parser, "a 1\nb 2\nc 3\n"), { c: 3, a: 1 });
      assert.deepEqual(parse(parser, "new 9\na 4\nb 5\nc 6"), { c: 6, a: 4 });
      assert.deepEqual(parse(parser, "cc 9\na 7\n"), { c: 0, a: 7 });
      assert.deepEqual(parse(parser, ""), { c: 0, a: 0 });
    });

    it("take 0 for the columns of a line that is short", () => {
      const text = new TextEncoder().encode("cpu 1 2");
      const parser = new KeyedLinesParser(text, text.length, [
        {
          key: "cpu",
          wanted: [
            { name: "first", unit: "", kind: "counter", columns: [0] },
            { name: "third", unit: "", kind: "counter", columns: [2] },
          ],
        },
      ]);
      assert.deepEqual(parse(parser, "cpu 1 2"), { first: 1, third: 0 });
    });

    it("survive any prefix of their text", () => {
      const text = files["proc/net/dev"] ?? "";
      const disks = files["proc/diskstats"] ?? "";
      const network = new NetworkDevicesParser();
      const disk = new DiskStatisticsParser(["vda"]);
      for (let length = 0; length < text.length; length += 1) parse(network, text.slice(0, length));
      for (let length = 0; length < disks.length; length += 1) parse(disk, disks.slice(0, length));
    });
  });

  it("reads files longer than its buffer, and again from the beginning", () => {
    const text = "x".repeat(1000);
    const { root, remove } = fixture({ file: text });
    try {
      for (const wholeInOneRead of [true, false]) {
        const file = new ProcfsFile(join(root, "file"), wholeInOneRead, 16);
        for (let round = 0; round < 2; round += 1) {
          assert.equal(file.read(), 1000);
          assert.equal(new TextDecoder().decode(file.bytes.subarray(0, 1000)), text);
        }
        file.close();
        file.close();
      }
    } finally {
      remove();
    }
  });

  it("keeps the values and counts where a file cannot be read any more", () => {
    const { root, remove } = fixture({ "proc/loadavg": "1.00 2.00 3.00 4/5 6\n" });
    try {
      const { samplers } = openSamplers({ groups: ["scheduler"], procRoot: join(root, "proc") });
      const [sampler] = samplers;
      assert.ok(sampler);
      const target = new Float64Array(5);
      sampler.sample(target);
      sampler.close();
      renameSync(join(root, "proc"), join(root, "gone"));
      sampler.sample(target);
      assert.equal(sampler.readFailures, 1);
      assert.deepEqual([...target], [1, 2, 3, 4, 5]);
    } finally {
      remove();
    }
  });

  it("reads the real procfs", () => {
    const steady = new Set(["context_switches", "forks", "interrupts", "faults"]);
    const { samplers, skipped } = openSamplers();
    try {
      const groups = new Set(samplers.map(({ group }) => group));
      for (const group of ["cpu", "scheduler", "memory"] as const) assert.ok(groups.has(group), group);
      for (const { reason } of skipped) assert.ok(reason.length > 0);
      for (const sampler of samplers) {
        const first = valuesOf(sampler);
        for (let round = 0; round < 200; round += 1) valuesOf(sampler);
        const last = valuesOf(sampler);
        for (const { name, kind } of sampler.description.fields) {
          const before = first[name] ?? Number.NaN;
          const after = last[name] ?? Number.NaN;
          assert.ok(Number.isFinite(before) && before >= 0, `${sampler.group} ${name} is ${before}`);
          // Others may go back: idle and iowait now and then, a sum when an interface goes away.
          if (kind === "counter" && steady.has(name)) {
            assert.ok(after >= before, `${sampler.group} ${name} went from ${before} to ${after}`);
          }
        }
        assert.equal(sampler.readFailures, 0);
      }
      const memory = samplers.find(({ group }) => group === "memory");
      assert.ok(memory);
      const { total = 0, free = 0 } = valuesOf(memory);
      assert.ok(total > free && free > 0);
    } finally {
      for (const sampler of samplers) sampler.close();
    }
  });

  it("shares all groups out to three publishers", () => {
    assert.equal(publisherGroups.length, 3);
    assert.deepEqual(
      publisherGroups.flatMap(({ groups }) => groups),
      [...groupNames],
    );
  });
});
