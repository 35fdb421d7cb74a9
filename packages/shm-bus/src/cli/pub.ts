import { addAbortSignal } from "node:stream";

import { ShmBusError } from "../index.ts";
import { attachOptions, type Command, withBus } from "./command.ts";
import { print } from "./output.ts";

async function standardInput(signal: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of addAbortSignal(signal, process.stdin)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** A ring in which a message of `bytes` bytes fits: it may take a quarter. */
function ringFor(bytes: number): number {
  return 2 ** Math.min(33, Math.max(16, Math.ceil(Math.log2(bytes + 1024)) + 2));
}

export const command: Command = {
  usage: "NAME TO [TEXT] [--create]",
  help: `Publishes TEXT, or what it reads from stdin, as one message to the group or address TO, and prints its stamp.
A group that nobody has made is an error. A TEXT that starts with a dash stands behind --.

  --create                 make the group if it is missing`,
  options: { create: { type: "boolean" } },
  words: [2, 3],

  async run(call) {
    const { signal, json } = call;
    const [name, to, text] = call.positionals as [string, string, string | undefined];
    const bytes = text === undefined ? await standardInput(signal) : Buffer.from(text);
    const options = { ...attachOptions(call), ringBytes: ringFor(bytes.byteLength) };
    await withBus(name, options, async (bus) => {
      if (call.flags["create"] === true) await bus.createGroup(to, { signal });
      for (;;) {
        try {
          const stamp = bus.publish(to, bytes);
          print(json ? { stamp, bytes: bytes.byteLength } : String(stamp));
          return;
        } catch (error) {
          if (!(error instanceof ShmBusError) || error.code !== "ERR_SHM_BUS_WOULD_BLOCK") throw error;
          await bus.writable({ signal });
        }
      }
    });
  },
};
