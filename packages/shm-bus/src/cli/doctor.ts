import { mkdtemp, rm } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";

import { type Bus, ShmBusError } from "../index.ts";
import { attachOptions, type Command, namedDirectory, withBus } from "./command.ts";
import { print } from "./output.ts";

const text = "Is anybody there?";
/** How long the message may take. Milliseconds. */
const patience = 10_000;

async function sendOne(bus: Bus, stop: AbortSignal): Promise<void> {
  const signal = AbortSignal.any([stop, AbortSignal.timeout(patience)]);
  const subscription = await bus.subscribe("doctor", { signal });
  const close = (): void => void subscription.close().catch(() => {});
  signal.addEventListener("abort", close, { once: true });
  const stamp = bus.publish("doctor", Buffer.from(text));
  for await (const message of subscription) {
    if (message.stamp === stamp && Buffer.from(message.copy()).toString() === text) return;
    throw new ShmBusError("ERR_SHM_BUS_PROTOCOL", "the message that was read is not the one published");
  }
  stop.throwIfAborted();
  throw new ShmBusError("ERR_SHM_BUS_SYSTEM", `no message came within ${patience} ms`);
}

export const command: Command = {
  usage: "",
  help: `Tries this machine: founds a private bus in a temporary directory (or in the runtime directory that is named),
publishes a message and receives it. Prints ok, or the one error that says what is missing.`,
  options: {},
  words: [0, 0],

  async run(call) {
    const named = namedDirectory(call.flags);
    const runtimeDirectory = named ?? (await mkdtemp(join(tmpdir(), "shm-bus-doctor-")));
    try {
      const options = { ...attachOptions(call), master: "only" as const, runtimeDirectory };
      await withBus(`doctor-${process.pid}`, options, (bus) => sendOne(bus, call.signal));
    } finally {
      if (named === undefined) await rm(runtimeDirectory, { recursive: true, force: true });
    }
    const { arch, versions } = process;
    const kernel = release();
    if (call.json) print({ ok: true, kernel, arch, node: versions.node });
    else print(`ok: Linux ${kernel}, ${arch}, Node.js ${versions.node}`);
  },
};
