/** The flags of the example. */
import { parseArgs } from "node:util";

/** The highest rate that a publisher can be asked for, in Hz. */
export const maximumRateHz = 10_000;

/** The rate of each publisher unless told, in Hz. */
export const defaultRateHz = 1_000;

/** The exit code for flags that make no sense. */
export const usageExitCode = 2;

/** What the flags ask for. */
export interface TelemetryOptions {
  /** How long to run; undefined: until Ctrl-C. */
  readonly seconds: number | undefined;
  /** Samples a second of each publisher. */
  readonly rateHz: number;
  /** One JSON object at the end and nothing else on standard output. */
  readonly json: boolean;
}

/** What to do after the flags have been read. */
export type ParsedOptions =
  | { readonly kind: "run"; readonly options: TelemetryOptions }
  /** Print `text` to standard output and exit with 0. */
  | { readonly kind: "help"; readonly text: string }
  /** Print `message` to standard error and exit with `exitCode`. */
  | { readonly kind: "error"; readonly message: string; readonly exitCode: typeof usageExitCode };

/** The text of `--help`. */
export const helpText = `Usage: npm start -- [--seconds N] [--rate HZ] [--json]

A telemetry bus: three processes sample this machine's counters from /proc and publish
them through shared memory, one shows them live, and one records and checks what it sees.

  --seconds N   stop after N seconds, fractions allowed (default: run until Ctrl-C)
  --rate HZ     samples a second of each publisher, above 0, up to ${maximumRateHz} (default: ${defaultRateHz})
  --json        write one JSON object at the end and nothing else to standard output
  --help        show this text

Ctrl-C ends it with a report, a second Ctrl-C without. While it runs there is a bus named
telemetry-PID in the directory of all your buses (SHM_BUS_RUNTIME_DIR names another).

Exit code: 0 if every message arrived in order and whole, 1 if one did not or a process
died, ${usageExitCode} if the flags are wrong, 130 or 143 where a signal left no time for a report.
`;

/** Reads a decimal number as a person writes it; NaN for anything else. */
function numberOf(text: string): number {
  return /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
}

/** Reads the flags, such as `process.argv.slice(2)`. */
export function parseOptions(args: readonly string[]): ParsedOptions {
  function error(message: string): ParsedOptions {
    return { kind: "error", message, exitCode: usageExitCode };
  }

  const { tokens } = parseArgs({
    args: [...args],
    strict: false,
    tokens: true,
    options: {
      seconds: { type: "string" },
      rate: { type: "string" },
      json: { type: "boolean" },
      help: { type: "boolean" },
    },
  });
  let seconds: number | undefined;
  let rateHz = defaultRateHz;
  let json = false;
  let help = false;
  for (const token of tokens) {
    if (token.kind === "positional") {
      return error(`"${token.value}" is not expected here, see --help.`);
    }
    if (token.kind === "option-terminator") continue;
    const { name, rawName, value } = token;
    switch (name) {
      case "seconds":
      case "rate": {
        if (value === undefined) return error(`${rawName} needs a number, see --help.`);
        const number = numberOf(value);
        if (name === "seconds") {
          // A timer's longest time.
          if (!(number > 0 && number * 1e3 < 2 ** 31)) {
            return error(`--seconds must be a number above 0 and at most 2147483, not "${value}".`);
          }
          seconds = number;
        } else {
          if (!(number > 0 && number <= maximumRateHz)) {
            return error(
              `--rate must be a number of Hz above 0 and at most ${maximumRateHz}, not "${value}".`,
            );
          }
          rateHz = number;
        }
        break;
      }
      case "json":
      case "help":
        if (value !== undefined) return error(`${rawName} takes no value, see --help.`);
        if (name === "json") json = true;
        else help = true;
        break;
      default:
        return error(`There is no flag ${rawName}, see --help.`);
    }
  }
  if (help) return { kind: "help", text: helpText };
  return { kind: "run", options: { seconds, rateHz, json } };
}
