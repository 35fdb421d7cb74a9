import { type Bus, type Message, ShmBusError } from "../index.ts";
import { attachOptions, type Call, type Command, wholeNumber, withBus } from "./command.ts";
import { hexOf, print, printable, textOf } from "./output.ts";

type Show = (message: Message, call: Call) => void;

function payload(message: Message, call: Call): { text: string } | { hex: string } {
  const bytes = message.copy();
  const text = call.flags["hex"] === true ? undefined : textOf(bytes);
  return text === undefined ? { hex: hexOf(bytes) } : { text };
}

/** Reads until `count` messages were shown or the signal is aborted; gives how many were not shown. */
async function read(bus: Bus, call: Call, count: number, show: Show): Promise<number> {
  const { positionals, signal } = call;
  const subscription = await bus.subscribe(positionals.slice(1), { signal });
  const stop = (): void => void subscription.close().catch(() => {});
  signal.addEventListener("abort", stop, { once: true });
  let left = count;
  try {
    for await (const message of subscription) {
      show(message, call);
      if (--left === 0 || signal.aborted) break;
    }
  } catch (error) {
    if (!(error instanceof ShmBusError) || error.code !== "ERR_SHM_BUS_EVICTED") throw error;
    process.stderr.write(`shm-bus: ${error.message} [${error.code}]; reading on behind the gap\n`);
    await subscription.close();
    return left;
  } finally {
    signal.removeEventListener("abort", stop);
  }
  if (left > 0 && !signal.aborted) {
    throw new ShmBusError("ERR_SHM_BUS_CLOSED", `the bus ${bus.name} let this attachment go`);
  }
  return left;
}

/** A command that shows messages by `show`. */
function reader(what: string, show: Show): Command {
  return {
    usage: "NAME GROUP... [--hex] [--count N]",
    help: `Prints the messages to the groups as they come, ${what}. Groups that are missing are made.
A reader that the output holds up loses messages as any slow reader does; it says so on stderr and reads on.

  --hex                    bytes as hexadecimal digits, not as text
  --count N                end after N messages`,
    options: { hex: { type: "boolean" }, count: { type: "string" } },
    words: [2, Number.POSITIVE_INFINITY],

    async run(call) {
      let left = wholeNumber(call.flags, "count", 1) ?? Number.POSITIVE_INFINITY;
      await withBus(call.positionals[0] as string, attachOptions(call), async (bus) => {
        while (left > 0 && !call.signal.aborted) left = await read(bus, call, left, show);
      });
    },
  };
}

export const tap: Command = reader("each with its stamp, sender and group", (message, call) => {
  const { stamp, sender, group, byteLength } = message;
  const content = payload(message, call);
  if (call.json) print({ stamp, sender, group, bytes: byteLength, ...content });
  else print(`${stamp} ${sender} ${group} ${"text" in content ? printable(content.text) : content.hex}`);
});

export const sub: Command = reader("only their payload", (message, call) => {
  if (call.json) {
    print(payload(message, call));
  } else if (call.flags["hex"] === true) {
    print(hexOf(message.copy()));
  } else if (process.stdout.isTTY) {
    const content = payload(message, call);
    print("text" in content ? printable(content.text) : content.hex);
  } else {
    process.stdout.write(Buffer.concat([message.copy(), Buffer.from("\n")]));
  }
});
