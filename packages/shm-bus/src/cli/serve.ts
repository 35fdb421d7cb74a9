import { ShmBusError } from "../index.ts";
import { attachOptions, type Command, pause, wholeNumber, withBus } from "./command.ts";
import { print } from "./output.ts";

const longest = 2 ** 31 - 1;

export const command: Command = {
  usage: "NAME [--slots N]",
  help: `Founds the bus NAME and is its master until SIGINT or SIGTERM. It fails if there is such a bus.
When it ends, another attachment takes over; if there is none, the bus ends with it.

  --slots N                slots of the order: a power of two from 256 to 2^24, 2^18 by default`,
  options: { slots: { type: "string" } },
  words: [1, 1],

  async run(call) {
    const { json, signal } = call;
    const name = call.positionals[0] as string;
    const slots = wholeNumber(call.flags, "slots", 1);
    const options = {
      ...attachOptions(call),
      master: "only" as const,
      ...(slots !== undefined && { slots }),
    };
    await withBus(name, options, async (bus) => {
      const { id, address } = bus;
      const { pid } = process;
      print(json ? { name, id, address, pid } : `serving ${name} as ${address}, process ${pid}, bus ${id}`);
      while (!signal.aborted) {
        const lost = new AbortController();
        bus.once("close", () => lost.abort());
        await pause(longest, AbortSignal.any([signal, lost.signal]));
        if (lost.signal.aborted) throw new ShmBusError("ERR_SHM_BUS_CLOSED", `the bus ${name} let it go`);
      }
    });
  },
};
