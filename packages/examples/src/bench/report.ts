/** The report as a person reads it. */
import type { FigureResult, Range, Report } from "./driver.ts";
import { machineText } from "./machine.ts";

/** A time in the unit that suits it. */
export function timeText(ns: number): string {
  if (ns >= 1e6) return `${(ns / 1e6).toPrecision(3)} ms`;
  if (ns >= 1e3) return `${(ns / 1e3).toPrecision(3)} µs`;
  return `${ns.toPrecision(3)} ns`;
}

/** Messages a second, in millions. */
export function rateText(perSecond: number): string {
  return `${(perSecond / 1e6).toPrecision(3)} M/s`;
}

function rangeText(range: Range, text: (value: number) => string): string {
  return `${text(range.median)} (${text(range.min)} .. ${text(range.max)})`;
}

/** Lines of columns: the first to the left, the others to the right. */
export function tableText(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => {
        const width = widths[column] as number;
        return column === 0 ? cell.padEnd(width) : cell.padStart(width);
      })
      .join("  ")
      .trimEnd();
  return rows.map(line).join("\n");
}

function figureTitle({ title, language, batch, crowded }: FigureResult): string {
  const batchText = batch === undefined ? "" : `, ${batch} a publish`;
  return `${title}, ${language}${batchText}${crowded ? " *" : ""}`;
}

function figureRow(figure: FigureResult): string[] {
  const { kind, ns, ns99, ns999, multiple, messagesPerSecond, cpuMicrosPerMessage } = figure;
  const value =
    kind === "latency" || messagesPerSecond === undefined
      ? rangeText(ns, timeText)
      : rangeText(messagesPerSecond, rateText);
  return [
    figureTitle(figure),
    value,
    ns99 === undefined ? "" : timeText(ns99.median),
    ns999 === undefined ? "" : timeText(ns999.median),
    rangeText(multiple, (x) => `${x.toPrecision(3)}`),
    cpuMicrosPerMessage.median.toPrecision(3),
  ];
}

/** The whole report. */
export function reportText(report: Report): string {
  const { machine, settings, floors, figures, seconds } = report;
  const lines = [
    machineText(machine),
    `${settings.repeats} turns of ${settings.milliseconds} ms after ${settings.warmUpMilliseconds} ms of warm-up; ` +
      `median (min .. max) of the turns; ${seconds.toFixed(0)} s in all`,
    "",
    tableText([
      ["floor", "median (min .. max)"],
      ...floors.map(({ id, title, ns }) => [`${id}: ${title}`, rangeText(ns, timeText)]),
    ]),
  ];
  for (const { id } of floors) {
    const rows = figures.filter((figure) => figure.floor === id);
    if (rows.length === 0) continue;
    const header = ["figure", "median (min .. max)", "p99", "p99.9", `times ${id}`, "CPU µs/message"];
    lines.push("", tableText([header, ...rows.map(figureRow)]));
  }
  if (figures.some((figure) => figure.crowded)) {
    lines.push(
      "",
      "* more processes than processors: they take turns, and readers and publishers sleep or yield.",
    );
  }
  const lost = figures.filter((figure) => figure.lost > 0);
  for (const figure of lost)
    lines.push("", `LOST OR OUT OF ORDER: ${figure.lost} messages in ${figureTitle(figure)}`);
  if (lost.length === 0)
    lines.push("", "Every message of the P3 figures arrived once and in its publisher's order.");
  return `${lines.join("\n")}\n`;
}
