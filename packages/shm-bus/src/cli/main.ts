#!/usr/bin/env node
import { parseArgs } from "node:util";

import type { Command } from "./command.ts";

interface Entry {
  readonly summary: string;
  /** Commands are loaded when they are called, so that an addon that does not load is one clear error. */
  load(): Promise<Command>;
}

const commands: Readonly<Record<string, Entry>> = {
  serve: { summary: "found a bus and be its master", load: async () => (await import("./serve.ts")).command },
  ls: { summary: "list the buses", load: async () => (await import("./ls.ts")).command },
  top: { summary: "watch who is attached", load: async () => (await import("./top.ts")).command },
  tap: { summary: "print messages as they come", load: async () => (await import("./tap.ts")).tap },
  sub: { summary: "print only their payload", load: async () => (await import("./tap.ts")).sub },
  pub: { summary: "publish a message", load: async () => (await import("./pub.ts")).command },
  doctor: { summary: "try this machine", load: async () => (await import("./doctor.ts")).command },
};

const common = `  --runtime-directory DIR  where buses have their sockets (default: SHM_BUS_RUNTIME_DIR, then XDG_RUNTIME_DIR)
  --protocol N             number of the application's own protocol, 0 by default
  --json                   print JSON, one object a line
  --help                   show this text

Exit code: 0 if it worked, 1 if it failed, 2 if the command line is wrong.
`;

const overview = `Usage: shm-bus COMMAND ...

${Object.entries(commands)
  .map(([name, { summary }]) => `  ${name.padEnd(8)} ${summary}`)
  .join("\n")}

shm-bus COMMAND --help tells more. Every command takes:

${common}`;

class Stopped extends Error {}

/** Ends with 0 for what worked, else throws. */
async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(overview);
    return 0;
  }
  const entry = name !== undefined && Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (name === undefined || entry === undefined) {
    const what = name === undefined ? "a command is missing" : `there is no command "${name}"`;
    return complain(`${what}; see shm-bus --help`, 2);
  }
  const command = await entry.load();
  const { UsageError } = await import("./command.ts");
  let parsed;
  try {
    parsed = parseArgs({
      args: rest,
      allowPositionals: true,
      options: {
        ...command.options,
        "runtime-directory": { type: "string" },
        protocol: { type: "string" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    return complain(`${(error as Error).message.replace(/\. .*|\.$/s, "")}; see shm-bus ${name} --help`, 2);
  }
  const { positionals } = parsed;
  const flags = parsed.values as Readonly<Record<string, string | boolean | undefined>>;
  const usage = `shm-bus ${name} ${command.usage}`.trimEnd();
  if (flags["help"] === true) {
    const own = command.help + (Object.keys(command.options).length > 0 ? "\n" : "\n\n");
    process.stdout.write(`Usage: ${usage}\n\n${own}${common}`);
    return 0;
  }
  const [fewest, most] = command.words;
  if (positionals.length < fewest || positionals.length > most) {
    return complain(`usage: ${usage}`, 2);
  }
  const { signal, letGo } = stopSignal();
  try {
    await command.run({ positionals, flags, json: flags["json"] === true, signal });
    return 0;
  } catch (error) {
    if (error instanceof UsageError) return complain(`${error.message}; see shm-bus ${name} --help`, 2);
    // Stopped before it had done its work.
    if (signal.aborted && (error === signal.reason || (error as Error).name === "AbortError")) return 1;
    throw error;
  } finally {
    letGo();
  }
}

/** A signal that is aborted by the first Ctrl-C; the second ends the process at once. */
function stopSignal(): { signal: AbortSignal; letGo: () => void } {
  const controller = new AbortController();
  const stop = (): void => controller.abort(new Stopped("stopped"));
  process.once("SIGINT", stop).once("SIGTERM", stop);
  // Whoever read the output has gone: `shm-bus tap ... | head`.
  process.stdout.on("error", stop);
  const letGo = (): void => void process.off("SIGINT", stop).off("SIGTERM", stop);
  return { signal: controller.signal, letGo };
}

/** One sentence on stderr. */
function complain(sentence: string, exitCode: number): number {
  process.stderr.write(`shm-bus: ${sentence.replace(/\s*\n\s*/g, " ")}\n`);
  return exitCode;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const { message = String(error), code } = error as { message?: string; code?: string };
  process.exitCode = complain(code === undefined ? message : `${message} [${code}]`, 1);
}
