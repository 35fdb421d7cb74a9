import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { Bus, ShmBusError } from "shm-bus";
import { helpText } from "../src/telemetry/options.ts";
import type { TelemetryReport } from "../src/telemetry/report.ts";
import { Program, deadlineMilliseconds, runtimeDirectory, until } from "./programs.ts";

const main = "telemetry/main.js";

/** The one JSON object on standard output, checked as far as every good run has it. */
function reportOf(program: Program): TelemetryReport {
  const lines = program.stdout.split("\n");
  assert.equal(lines.length, 2, program.stdout + program.stderr);
  assert.equal(lines[1], "");
  const report = JSON.parse(lines[0] ?? "") as TelemetryReport;
  assert.deepEqual(report.problems, []);
  assert.equal(program.stderr, "");
  assert.ok(report.messages > 0);
  assert.deepEqual([report.orderViolations, report.gaps, report.missing, report.corrupt], [0, 0, 0, 0]);
  assert.equal(report.processes, 6);
  const published = Object.values(report.published).reduce((sum, one) => sum + one, 0);
  assert.equal(published, report.messages);
  // Both readers were there before the first sample and after the last: they compare all.
  assert.ok(report.digest);
  assert.equal(report.digest.comparedMessages, report.messages);
  assert.deepEqual(report.digest.mismatchedBlocks, []);
  assert.ok(report.firstStamp !== null && report.lastStamp !== null);
  const blockOf = (stamp: number): number => Math.floor(stamp / 1024);
  const blocks = blockOf(report.lastStamp) - blockOf(report.firstStamp) + 1;
  assert.ok(report.digest.comparedBlocks >= 1 && report.digest.comparedBlocks <= blocks);
  assert.ok(report.lastStamp - report.firstStamp + 1 >= report.messages);
  const { p50, p99, p999, max } = report.latencyMicroseconds;
  assert.ok(p50 > 0 && p50 <= p99 && p99 <= p999 && p999 <= max);
  return report;
}

/** Attaches to the bus of a run as one more listener, and waits until samples of every publisher have come. */
async function untilPublishing(program: Program, directory: string): Promise<void> {
  let bus: Bus | undefined;
  while (bus === undefined) {
    assert.ok(program.group().length > 0, `it has ended: ${program.stderr}`);
    try {
      bus = await Bus.attach(`telemetry-${program.pid}`, { master: "never", runtimeDirectory: directory });
    } catch (error) {
      if (!(error instanceof ShmBusError && error.code === "ERR_SHM_BUS_NOT_FOUND")) throw error;
    }
  }
  // Nothing more would come: the loop below is to end.
  const attached = bus;
  void program.exited.then(() => attached.close());
  const senders = new Set<string>();
  // "cpu", "memory" and "network" are of one publisher each, and every Linux has them.
  for await (const message of await bus.subscribe(["cpu", "memory", "network"], { deadline: 10_000 })) {
    senders.add(message.sender);
    if (senders.size === 3) break;
  }
  await bus.close();
  assert.equal(senders.size, 3, `it has ended: ${program.stderr}`);
}

async function leavesNothing(program: Program, directory: string): Promise<void> {
  assert.deepEqual(program.group(), []);
  assert.deepEqual(readdirSync(directory), []);
}

describe("telemetry example", function () {
  this.timeout(deadlineMilliseconds * 2);

  it("runs for the time it is told and reports that nothing was lost", async () => {
    const directory = runtimeDirectory();
    const program = new Program(main, ["--seconds", "2", "--rate", "1000", "--json"], directory);
    assert.deepEqual(await program.exited, { code: 0, signal: null }, program.stderr);
    const report = reportOf(program);
    assert.deepEqual(Object.keys(report.achievedRateHz), ["processors", "memory", "devices"]);
    assert.ok(report.groups.includes("cpu") && report.groups.includes("memory"));
    assert.ok(report.elapsedSeconds >= 2);
    await leavesNothing(program, directory);
  });

  for (const [signal, whole] of [
    ["SIGINT", true],
    ["SIGTERM", true],
    ["SIGTERM", false],
  ] as const) {
    it(`ends in good order on ${signal} to ${whole ? "all processes" : "the parent"}`, async () => {
      const directory = runtimeDirectory();
      const program = new Program(main, ["--json"], directory);
      await untilPublishing(program, directory);
      if (whole) program.signal(signal);
      else process.kill(program.pid, signal);
      assert.deepEqual(await program.exited, { code: 0, signal: null }, program.stderr);
      reportOf(program);
      await leavesNothing(program, directory);
    });
  }

  it("writes lines and a report where there is no terminal", async () => {
    const directory = runtimeDirectory();
    const program = new Program(main, ["--rate", "100"], directory);
    await until(() => program.stdout.includes("\n"), "a line was written");
    program.signal("SIGINT");
    assert.deepEqual(await program.exited, { code: 0, signal: null }, program.stderr);
    assert.match(program.stdout, /^\d[^\n]* s {2}[^\n]*latency µs p50 /);
    assert.match(program.stdout, /\n\d+ messages in [^\n]*6 processes[^]*order violations 0, gaps 0/);
    assert.ok(!program.stdout.includes("\u001b"));
    await leavesNothing(program, directory);
  });

  it("is interrupted before the first sample without a report", async () => {
    const directory = runtimeDirectory();
    const program = new Program(main, ["--json"], directory);
    // The children have been forked, and may not yet be able to see to the signal.
    await until(() => program.group().length > 1, "the children were forked");
    program.signal("SIGINT");
    const { code } = await program.exited;
    // Where the machine was busy just here, the first sample was there before.
    if (code === 0) reportOf(program);
    else assert.deepEqual([code, program.stdout], [130, ""]);
    await leavesNothing(program, directory);
  });

  for (const [file, sentence] of [
    ["publisher.js", /^The (?:processors|memory|devices) publisher died \(killed by SIGKILL\)\.\n$/],
    ["recorder.js", /^The recorder died \(killed by SIGKILL\)\.\n$/],
    ["live-view.js", /^The view died \(killed by SIGKILL\)\.\n$/],
  ] as const) {
    it(`fails where ${file} is killed`, async () => {
      const directory = runtimeDirectory();
      const program = new Program(main, ["--json"], directory);
      await untilPublishing(program, directory);
      const victim = program.group().find(({ command }) => command.includes(`/telemetry/${file}`));
      assert.ok(victim);
      process.kill(victim.pid, "SIGKILL");
      assert.deepEqual(await program.exited, { code: 1, signal: null });
      assert.match(program.stderr, sentence);
      assert.equal(program.stdout, "");
      await leavesNothing(program, directory);
    });
  }

  it("leaves no process and no file where the parent is killed", async () => {
    const directory = runtimeDirectory();
    const program = new Program(main, ["--json"], directory);
    await untilPublishing(program, directory);
    process.kill(program.pid, "SIGKILL");
    await program.exited;
    await program.groupGone();
    assert.deepEqual(readdirSync(directory), []);
  });

  it("ends at once on a second Ctrl-C", async () => {
    const directory = runtimeDirectory();
    const program = new Program(main, ["--json"], directory);
    await untilPublishing(program, directory);
    const recorder = program.group().find(({ command }) => command.includes("/telemetry/recorder.js"));
    assert.ok(recorder);
    // It will not drain.
    process.kill(recorder.pid, "SIGSTOP");
    await until(() => {
      if (!program.group().some(({ pid }) => pid === recorder.pid)) return true;
      program.signal("SIGINT");
      return false;
    }, "the recorder was killed");
    assert.deepEqual(await program.exited, { code: 130, signal: null });
    assert.equal(program.stdout, "");
    assert.match(program.stderr, /^Killed: /);
    await leavesNothing(program, directory);
  });

  it("has help", async () => {
    const program = new Program(main, ["--help"], runtimeDirectory());
    assert.deepEqual(await program.exited, { code: 0, signal: null });
    assert.equal(program.stdout, helpText);
    assert.equal(program.stderr, "");
  });

  for (const args of [
    ["--rate", "0"],
    ["--rate", "10001"],
    ["--seconds"],
    ["--seconds", "-1"],
    ["--nothing"],
    ["x"],
  ]) {
    it(`refuses ${args.join(" ")}`, async () => {
      const directory = runtimeDirectory();
      const program = new Program(main, args, directory);
      assert.deepEqual(await program.exited, { code: 2, signal: null });
      assert.equal(program.stdout, "");
      assert.match(program.stderr, /^[^\n]+\.\n$/);
      assert.deepEqual(readdirSync(directory), []);
    });
  }

  it("fails with a sentence where the bus cannot be founded", async () => {
    const program = new Program(main, ["--json"], "/proc/1");
    assert.deepEqual(await program.exited, { code: 1, signal: null });
    assert.equal(program.stdout, "");
    assert.match(program.stderr, /^[^\n]*\/proc\/1[^\n]*\n$/);
  });
});
