import assert from "node:assert/strict";
import {
  TelemetryView,
  formatBytes,
  formatNumber,
  formatValue,
  renderLine,
  renderTable,
} from "../src/telemetry/view.ts";
import { TelemetryModel } from "../src/telemetry/view-state.ts";
import type { TelemetryState } from "../src/telemetry/view-state.ts";

const latency = { p50: 8.125, p99: 31.42, p999: 120.4, max: 950 };

const state: TelemetryState = {
  elapsedSeconds: 12.34,
  processes: 5,
  messages: 372_148,
  messagesPerSecond: 30_012.4,
  stamp: 372_147,
  lag: 3,
  latency,
  orderViolations: 0,
  gaps: 0,
  groups: [
    {
      group: "cpu",
      messages: 120_000,
      messagesPerSecond: 10_000.6,
      stamp: 372_147,
      latency,
      values: [
        { name: "user", unit: "ticks", kind: "counter", value: 100, perSecond: 12.5 },
        { name: "system", unit: "ticks", kind: "counter", value: 100, perSecond: undefined },
        { name: "interrupts", unit: "interrupts", kind: "counter", value: 1e9, perSecond: 12_345 },
      ],
    },
    {
      group: "memory",
      messages: 0,
      messagesPerSecond: 0,
      stamp: undefined,
      latency: { p50: 0, p99: 0, p999: 0, max: 0 },
      values: [
        { name: "free", unit: "bytes", kind: "gauge", value: 3 * 2 ** 30, perSecond: undefined },
        { name: "pressure.some.10s", unit: "percent", kind: "gauge", value: 0.94, perSecond: undefined },
      ],
    },
  ],
  notes: ["scheduler: /proc/schedstat skipped, this kernel or container does not have it"],
};

const table = `
12.3 s  5 processes  30,012 messages/s  stamp 372,147  lag 3
delivery latency µs  p50 8.13  p99 31.4  p99.9 120  max 950
372,148 messages  order violations 0  gaps 0

group       messages/s       stamp      p50 µs      p99 µs    p99.9 µs
──────────────────────────────────────────────────────────────────────
cpu             10,001     372,147        8.13        31.4         120
memory               0           -           0           0           0

cpu
  user                    12.5 %   interrupts            12,345/s
  system                       -
memory
  free                     3 GiB   pressure.some.10s      0.940 %

scheduler: /proc/schedstat skipped, this kernel or container does not have it
`.slice(1, -1);

class FakeStream {
  text = "";
  isTTY: boolean;
  columns: number | undefined = 95;
  rows: number | undefined = 40;

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.text += text;
  }

  take(): string {
    const { text } = this;
    this.text = "";
    return text;
  }
}

describe("telemetry view", () => {
  it("draws a table", () => {
    assert.equal(renderTable(state, { columns: 94, rows: 40 }).join("\n"), table);
  });

  it("stays within the width and the height", () => {
    for (let columns = 1; columns < 120; columns += 7) {
      for (const rows of [0, 1, 5, 24, 60]) {
        const lines = renderTable(state, { columns, rows });
        assert.ok(lines.length <= rows);
        for (const line of lines) assert.ok(line.length <= columns, `${line.length} of ${columns}`);
      }
    }
    assert.deepEqual(renderTable(state, { columns: 55, rows: 3 }), [
      "12.3 s  5 processes  30,012 messages/s  stamp 372,147 …",
      "delivery latency µs  p50 8.13  p99 31.4  p99.9 120  ma…",
      "… 11 more lines: make the terminal taller",
    ]);
  });

  it("shows what tells most where there is no room for all", () => {
    const lines = renderTable(state, { columns: 79, rows: 13 });
    assert.deepEqual(lines.slice(9, 11), [
      "cpu     user            12.5 %  system               -  interrupts    12,345/s",
      "memory  free             3 GiB  pressure.some… 0.940 %",
    ]);
    assert.equal(lines.length, 13);
  });

  it("uses the width for more columns", () => {
    const narrow = renderTable(state, { columns: 40, rows: 99 }).length;
    const wide = renderTable(state, { columns: 200, rows: 99 }).length;
    assert.ok(wide < narrow);
  });

  it("has a line for where there is no terminal", () => {
    assert.equal(
      renderLine({ ...state, lag: undefined }),
      "12.3 s  30,012 messages/s  stamp 372,147  lag -  latency µs p50 8.13 p99 31.4 p99.9 120  " +
        "order violations 0  gaps 0  cpu 10,001/s memory 0/s",
    );
  });

  it("writes numbers for people", () => {
    assert.deepEqual([0, 0.0421, 8.125, 31.42, 100, 1234567, -1234.5, Number.NaN].map(formatNumber), [
      "0",
      "0.042",
      "8.13",
      "31.4",
      "100",
      "1,234,567",
      "-1,234",
      "-",
    ]);
    assert.deepEqual([0, 1023, 1536, 2 ** 60].map(formatBytes), ["0 B", "1,023 B", "1.50 KiB", "1,024 PiB"]);
  });

  it("shows counters of time as a percentage", () => {
    const shown = { name: "x", kind: "counter", value: 1, perSecond: 5 } as const;
    assert.equal(formatValue({ ...shown, unit: "milliseconds" }), "0.500 %");
    assert.equal(formatValue({ ...shown, unit: "nanoseconds", perSecond: 2e9 }), "200 %");
    assert.equal(formatValue({ ...shown, unit: "bytes", perSecond: 2048 }), "2 KiB/s");
    assert.equal(formatValue({ ...shown, unit: "packets" }), "5/s");
  });

  it("redraws in place and shows the cursor again", () => {
    const stream = new FakeStream(true);
    const view = new TelemetryView(stream);
    const lines = table.split("\n");
    const drawn = `${lines.map((line) => `${line}\u001b[K\n`).join("")}\u001b[J`;
    assert.equal(view.inPlace, true);
    view.draw(state);
    assert.equal(stream.take(), `\u001b[?25l${drawn}`);
    view.draw(state);
    assert.equal(stream.take(), `\u001b[${lines.length}A\r${drawn}`);
    stream.columns = 94;
    view.draw(state);
    assert.equal(stream.take(), `\u001b[2J\u001b[H${drawn}`);
    view.finish();
    assert.equal(stream.take(), "\u001b[?25h");
    view.finish();
    assert.equal(stream.take(), "");
  });

  it("clears where the terminal became too low for what stands there", () => {
    const stream = new FakeStream(true);
    const view = new TelemetryView(stream);
    view.draw(state);
    stream.take();
    stream.rows = 10;
    view.draw(state);
    const text = stream.take();
    assert.ok(text.startsWith("\u001b[2J\u001b[H"));
    assert.equal(text.split("\n").length - 1, 9);
  });

  it("takes 80 by 24 where the size is not known", () => {
    const stream = new FakeStream(true);
    stream.columns = undefined;
    stream.rows = undefined;
    new TelemetryView(stream).draw(state);
    assert.ok(stream.take().split("\n").length - 1 <= 23);
  });

  it("writes plain lines where there is no terminal", () => {
    const stream = new FakeStream(false);
    const view = new TelemetryView(stream);
    view.draw(state);
    view.draw(state);
    view.finish();
    assert.equal(stream.text, `${renderLine(state)}\n`.repeat(2));
    assert.ok(!stream.text.includes("\u001b"));
  });

  it("gathers its state from messages", () => {
    const start = 1_000_000;
    const model = new TelemetryModel(
      [
        {
          group: "cpu",
          fields: [
            { name: "user", unit: "ticks", kind: "counter" },
            { name: "running", unit: "threads", kind: "gauge" },
          ],
        },
        { group: "disk", fields: [{ name: "reads", unit: "requests", kind: "counter" }] },
      ],
      start,
    );
    const more = { processes: 5, lag: 0, notes: [] };
    const empty = model.state(start, more);
    assert.equal(empty.messages, 0);
    assert.equal(empty.stamp, undefined);
    // 100 Hz for 3.5 s; the counter grows by 2 a message, so by 200 a second.
    for (let index = 0; index < 350; index += 1) {
      const sentAtMicroseconds = start + index * 10_000;
      model.observe({
        group: "cpu",
        stamp: 50 + index,
        sender: 1,
        sequence: index,
        sentAtMicroseconds,
        receivedAtMicroseconds: sentAtMicroseconds + 10,
        values: Float64Array.of(index * 2, index % 7),
      });
    }
    model.observe({
      group: "other",
      stamp: 10,
      sender: 2,
      sequence: 0,
      sentAtMicroseconds: start,
      receivedAtMicroseconds: start + 3_500_000,
      values: new Float64Array(0),
    });
    const shown = model.state(start + 3_500_000, more);
    assert.equal(shown.elapsedSeconds, 3.5);
    assert.equal(shown.messages, 351);
    assert.equal(shown.orderViolations, 1);
    assert.equal(shown.gaps, 0);
    const [cpu, disk] = shown.groups;
    assert.ok(cpu && disk);
    assert.equal(cpu.messages, 350);
    assert.equal(cpu.stamp, 399);
    assert.ok(Math.abs(cpu.messagesPerSecond - 100) <= 10, `${cpu.messagesPerSecond}`);
    assert.ok(Math.abs(cpu.latency.p50 - 10) < 0.1);
    assert.deepEqual(
      cpu.values.map(({ name, value }) => [name, value]),
      [
        ["user", 698],
        ["running", 349 % 7],
      ],
    );
    assert.ok(Math.abs((cpu.values[0]?.perSecond ?? 0) - 200) < 1e-6);
    assert.equal(cpu.values[1]?.perSecond, undefined);
    assert.equal(disk.messages, 0);
    assert.equal(disk.values[0]?.perSecond, undefined);
  });
});
