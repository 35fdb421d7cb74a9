/** Draws the state of the bus: a table redrawn in place on a terminal, plain lines elsewhere. */
import type { ShownGroup, ShownValue, TelemetryState } from "./view-state.ts";

/** The room for a drawing, in characters. */
export interface ViewSize {
  readonly columns: number;
  readonly rows: number;
}

/** What a view writes to; `process.stdout` is one. */
export interface ViewStream {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
  write(text: string): unknown;
}

const binaryPrefixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];

function integer(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(?:\d{3})+$)/g, ",");
}

/** A number with about three figures: `0`, `0.042`, `8.13`, `31.4`, `1,250`. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return integer(value);
  if (size >= 10) return value.toFixed(1);
  if (size >= 1) return value.toFixed(2);
  return value.toFixed(3);
}

/** Bytes with a binary prefix: `512 B`, `1.50 MiB`. */
export function formatBytes(value: number): string {
  let scaled = value;
  let prefix = 0;
  while (Math.abs(scaled) >= 1024 && prefix < binaryPrefixes.length - 1) {
    scaled /= 1024;
    prefix += 1;
  }
  return `${formatNumber(scaled)} ${binaryPrefixes[prefix] ?? ""}B`;
}

/** How much of a second one unit of time is. A tick of procfs is 1/100 s. */
const secondsOf: Readonly<Record<string, number>> = {
  ticks: 1e-2,
  milliseconds: 1e-3,
  microseconds: 1e-6,
  nanoseconds: 1e-9,
};

/**
 * A value for people: a counter by its change a second, where it counts time as a percentage of
 * the time gone by; a gauge as it is.
 */
export function formatValue(shown: ShownValue): string {
  const { kind, unit, value, perSecond } = shown;
  if (kind === "counter") {
    if (perSecond === undefined) return "-";
    const seconds = secondsOf[unit];
    if (seconds !== undefined) return `${formatNumber(perSecond * seconds * 100)} %`;
    return unit === "bytes" ? `${formatBytes(perSecond)}/s` : `${formatNumber(perSecond)}/s`;
  }
  if (unit === "bytes") return formatBytes(value);
  return unit === "percent" ? `${formatNumber(value)} %` : formatNumber(value);
}

function stampText(stamp: number | undefined): string {
  return stamp === undefined ? "-" : integer(stamp);
}

function healthText({ orderViolations, gaps }: TelemetryState): string {
  return `order violations ${integer(orderViolations)}  gaps ${integer(gaps)}`;
}

const groupHeadings = ["group", "messages/s", "stamp", "p50 µs", "p99 µs", "p99.9 µs"];

function groupRow(group: ShownGroup): string[] {
  return [
    group.group,
    formatNumber(group.messagesPerSecond),
    stampText(group.stamp),
    formatNumber(group.latency.p50),
    formatNumber(group.latency.p99),
    formatNumber(group.latency.p999),
  ];
}

/** Columns of fixed least widths, so that the table stands still; the first to the left. */
function tableLines(headings: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = headings.map((heading, column) =>
    Math.max(10, heading.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return column === 0 ? cell.padEnd(width) : cell.padStart(width);
      })
      .join("  ");
  return [line(headings), widths.map((width) => "─".repeat(width)).join("──"), ...rows.map(line)];
}

const valueWidth = 12;

function valueLines(groups: readonly ShownGroup[], columns: number): string[] {
  const longestName = Math.max(0, ...groups.flatMap(({ values }) => values.map((v) => v.name.length)));
  const cellWidth = longestName + 1 + valueWidth;
  const indent = 2;
  const between = 3;
  const perLine = Math.max(1, Math.floor((columns - indent + between) / (cellWidth + between)));
  const lines: string[] = [];
  for (const { group, values } of groups) {
    if (values.length === 0) continue;
    lines.push(group);
    const cells = values.map(
      (shown) => `${shown.name.padEnd(longestName)} ${formatValue(shown).padStart(valueWidth)}`,
    );
    // Down the columns, as names that belong together follow each other.
    const height = Math.ceil(cells.length / perLine);
    for (let row = 0; row < height; row += 1) {
      const parts: string[] = [];
      for (let index = row; index < cells.length; index += height) parts.push(cells[index] ?? "");
      lines.push(" ".repeat(indent) + parts.join(" ".repeat(between)));
    }
  }
  return lines;
}

/** What tells most of a group, shown first where there is no room for all. */
const headlines: Readonly<Record<string, readonly string[]>> = {
  cpu: ["user", "system", "idle", "iowait", "interrupts"],
  scheduler: ["load.1min", "running", "context_switches", "blocked", "forks"],
  memory: ["available", "free", "cached", "anonymous", "dirty"],
  paging: ["faults", "major_faults", "paged_in", "paged_out"],
  network: ["receive.bytes", "transmit.bytes", "loopback.bytes"],
  disk: ["read.bytes", "write.bytes", "busy.time"],
};

function byImportance({ group, values }: ShownGroup): readonly ShownValue[] {
  const first = (headlines[group] ?? []).flatMap((name) => values.find((one) => one.name === name) ?? []);
  return [...first, ...values.filter((one) => !first.includes(one))];
}

/** The values that tell most, in `rows` lines at most unless there are more groups. */
function fewValueLines(groups: readonly ShownGroup[], columns: number, rows: number): string[] {
  const shown = groups.filter(({ values }) => values.length > 0);
  const nameWidth = Math.max(0, ...shown.map(({ group }) => group.length));
  const between = 2;
  const room = columns - nameWidth;
  const perLine = Math.max(1, Math.floor(room / 22));
  const cellWidth = Math.max(1, Math.floor(room / perLine) - between);
  const height = Math.max(1, Math.floor(rows / Math.max(1, shown.length)));
  let spare = Math.max(0, rows - height * shown.length);
  const lines: string[] = [];
  for (const group of shown) {
    const values = byImportance(group);
    const needed = Math.ceil(values.length / perLine);
    const extra = needed > height && spare > 0 ? 1 : 0;
    spare -= extra;
    for (let row = 0; row < Math.min(needed, height + extra); row += 1) {
      const cells = values.slice(row * perLine, (row + 1) * perLine).map((value) => {
        const text = formatValue(value);
        const nameRoom = Math.max(1, cellWidth - 1 - text.length);
        const name = value.name.length <= nameRoom ? value.name : `${value.name.slice(0, nameRoom - 1)}…`;
        return " ".repeat(between) + name.padEnd(nameRoom + 1) + text;
      });
      lines.push((row === 0 ? group.group : "").padEnd(nameWidth) + cells.join(""));
    }
  }
  return lines;
}

/** The table as lines, none longer than `columns`, no more than `rows` of them. */
export function renderTable(state: TelemetryState, size: ViewSize): string[] {
  const { columns, rows } = size;
  const { latency } = state;
  const lines = [
    [
      `${state.elapsedSeconds.toFixed(1)} s`,
      `${integer(state.processes)} processes`,
      `${integer(state.messagesPerSecond)} messages/s`,
      `stamp ${stampText(state.stamp)}`,
      `lag ${state.lag === undefined ? "-" : integer(state.lag)}`,
    ].join("  "),
    [
      "delivery latency µs",
      `p50 ${formatNumber(latency.p50)}`,
      `p99 ${formatNumber(latency.p99)}`,
      `p99.9 ${formatNumber(latency.p999)}`,
      `max ${formatNumber(latency.max)}`,
    ].join("  "),
    `${integer(state.messages)} messages  ${healthText(state)}`,
    "",
    ...tableLines(groupHeadings, state.groups.map(groupRow)),
    "",
  ];
  const notes = state.notes.length > 0 ? ["", ...state.notes] : [];
  const room = rows - lines.length - notes.length;
  const all = valueLines(state.groups, columns);
  lines.push(...(all.length <= room ? all : fewValueLines(state.groups, columns, room)), ...notes);
  if (lines.length > rows) {
    const hidden = lines.length - Math.max(0, rows - 1);
    lines.length = Math.max(0, rows - 1);
    if (rows > 0) lines.push(`… ${hidden} more lines: make the terminal taller`);
  }
  return lines.map((line) => {
    const trimmed = line.trimEnd();
    return trimmed.length <= columns ? trimmed : `${trimmed.slice(0, Math.max(0, columns - 1))}…`;
  });
}

/** The state as one line without escape sequences. */
export function renderLine(state: TelemetryState): string {
  const { latency } = state;
  return [
    `${state.elapsedSeconds.toFixed(1)} s`,
    `${integer(state.messagesPerSecond)} messages/s`,
    `stamp ${stampText(state.stamp)}`,
    `lag ${state.lag === undefined ? "-" : integer(state.lag)}`,
    `latency µs p50 ${formatNumber(latency.p50)} p99 ${formatNumber(latency.p99)} p99.9 ${formatNumber(latency.p999)}`,
    healthText(state),
    state.groups.map(({ group, messagesPerSecond }) => `${group} ${integer(messagesPerSecond)}/s`).join(" "),
  ].join("  ");
}

const escape = "\u001b[";

/** Draws states on a stream; `finish` must be called at the end, however it comes. */
export class TelemetryView {
  readonly #stream: ViewStream;
  #drawnLines = 0;
  #drawnColumns = 0;
  #open = false;

  constructor(stream: ViewStream) {
    this.#stream = stream;
  }

  /** True if it redraws a table in place, false if each `draw` adds a line. */
  get inPlace(): boolean {
    return this.#stream.isTTY === true;
  }

  /** Draws the state: on a terminal over the one before, elsewhere as one more line. */
  draw(state: TelemetryState): void {
    if (!this.inPlace) {
      this.#stream.write(`${renderLine(state)}\n`);
      return;
    }
    const columns = this.#stream.columns ?? 80;
    const rows = this.#stream.rows ?? 24;
    // The last column and the last row stay free, so that nothing wraps or scrolls.
    const lines = renderTable(state, { columns: columns - 1, rows: rows - 1 });
    let text = "";
    if (!this.#open) {
      text += `${escape}?25l`;
      this.#open = true;
    } else if (columns !== this.#drawnColumns || this.#drawnLines > rows - 1) {
      // After a change of size nobody knows where the old lines stand.
      text += `${escape}2J${escape}H`;
    } else if (this.#drawnLines > 0) {
      text += `${escape}${this.#drawnLines}A\r`;
    }
    for (const line of lines) text += `${line}${escape}K\n`;
    text += `${escape}J`;
    this.#drawnLines = lines.length;
    this.#drawnColumns = columns;
    this.#stream.write(text);
  }

  /** Leaves the last table standing and shows the cursor again; a second call does nothing. */
  finish(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#drawnLines = 0;
    this.#stream.write(`${escape}?25h`);
  }
}
