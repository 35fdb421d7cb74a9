/** The flags of the benchmark, and what they mean in time. */
import { parseArgs } from "node:util";

/** How long and how often to measure. */
export interface Settings {
  /** How often everything is measured, by turns. */
  readonly repeats: number;
  /** Milliseconds of one measurement, and of the time before it that does not count. */
  readonly milliseconds: number;
  readonly warmUpMilliseconds: number;
}

/** What the flags ask for. */
export interface BenchOptions {
  readonly help: boolean;
  /** One JSON object and nothing else on standard output. */
  readonly json: boolean;
  readonly quick: boolean;
  readonly settings: Settings;
}

const quickSettings: Settings = { repeats: 3, milliseconds: 300, warmUpMilliseconds: 150 };
const fullSettings: Settings = { repeats: 5, milliseconds: 1000, warmUpMilliseconds: 300 };

/** The text of `--help`. */
export const helpText = `Usage: npm run bench -- [--quick] [--json]

Measures the bus between processes, from Rust and from JavaScript, beside what this
machine can do at best (the floors), by turns: every figure is also given as a
multiple of the floor that was measured in the same turn. Compare those between
machines and days, not the absolute times.

  --quick   ${quickSettings.repeats} turns of ${quickSettings.milliseconds} ms each instead of ${fullSettings.repeats} of ${fullSettings.milliseconds} ms: under a minute
  --json    write one JSON object and nothing else to standard output
  --help    show this text

Exit code: 0 if every message arrived once and in order, 1 if not or if a measurement
failed, 2 if the flags are wrong.
`;

/**
 * Reads the flags, such as `process.argv.slice(2)`.
 *
 * @throws {TypeError} what is wrong with them, in words
 */
export function parseOptions(args: readonly string[]): BenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const { quick, json, help } = values;
  return { help, json, quick, settings: quick ? quickSettings : fullSettings };
}
