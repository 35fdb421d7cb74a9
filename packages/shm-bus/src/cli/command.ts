import { resolve } from "node:path";
import type { ParseArgsConfig } from "node:util";

import { type AttachOptions, Bus } from "../index.ts";

/** The flags of a command as they were given, by name. */
export type Flags = Readonly<Record<string, string | boolean | undefined>>;

/** What a command gets. */
export interface Call {
  readonly positionals: readonly string[];
  readonly flags: Flags;
  readonly json: boolean;
  /** Aborted by SIGINT, by SIGTERM, and when nobody reads the output any more. */
  readonly signal: AbortSignal;
}

/** A command of the command line: one file each. */
export interface Command {
  /** What stands behind its name in the usage line. */
  readonly usage: string;
  /** What it does and its own flags, as `--help` prints them. */
  readonly help: string;
  readonly options: NonNullable<ParseArgsConfig["options"]>;
  /** How many words it takes: at least, at most. */
  readonly words: readonly [number, number];
  /** Does it; what it throws ends the program with exit code 1, a {@link UsageError} with 2. */
  run(call: Call): Promise<void>;
}

/** The command line makes no sense. */
export class UsageError extends Error {}

/** The numbers of a flag that takes a whole number. */
export function wholeNumber(
  flags: Flags,
  name: string,
  lowest: number,
  highest: number = Number.MAX_SAFE_INTEGER,
): number | undefined {
  const text = flags[name];
  if (text === undefined) return undefined;
  const number = typeof text === "string" && /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (number >= lowest && number <= highest) return number;
  const range =
    highest === Number.MAX_SAFE_INTEGER ? `of at least ${lowest}` : `from ${lowest} to ${highest}`;
  throw new UsageError(`--${name} must be a whole number ${range}, not "${String(text)}"`);
}

/** The directory that was named, absolute. */
export function namedDirectory(flags: Flags): string | undefined {
  const directory = flags["runtime-directory"];
  return typeof directory === "string" ? resolve(directory) : undefined;
}

/** Options of an attachment that publishes little or nothing. */
export function attachOptions({ flags, signal }: Call): AttachOptions {
  const options: AttachOptions = { master: "never", ringBytes: 1 << 16, headers: 64, signal };
  const runtimeDirectory = namedDirectory(flags);
  if (runtimeDirectory !== undefined) options.runtimeDirectory = runtimeDirectory;
  const protocol = wholeNumber(flags, "protocol", 0, 0xffff_ffff);
  if (protocol !== undefined) options.protocol = protocol;
  return options;
}

/** Attaches, lets `use` work with the bus, and detaches whatever happens. */
export async function withBus<R>(
  name: string,
  options: AttachOptions,
  use: (bus: Bus) => Promise<R>,
): Promise<R> {
  const bus = await Bus.attach(name, options);
  try {
    return await use(bus);
  } finally {
    await bus.close();
  }
}

/** Waits; ends early, without an error, when the signal is aborted. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) return done();
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      done();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end, { once: true });
  });
}
