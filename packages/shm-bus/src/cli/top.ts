import { attachOptions, type Command, pause, withBus } from "./command.ts";
import { print, table } from "./output.ts";

const period = 1000;
const heads = ["ADDRESS", "PID", "UID", "LAG", "PUBLISHED", "DELIVERED", "GROUPS"];
/** To the upper left corner, and nothing below. */
const clear = "\u001b[H\u001b[J";

export const command: Command = {
  usage: "NAME [--once]",
  help: `Shows who is attached to the bus NAME, once a second: address (* is the master), process, user, lag, messages
published and delivered, groups. Its own attachment is left out. Counters are since each attached.

  --once                   show it once`,
  options: { once: { type: "boolean" } },
  words: [1, 1],

  async run(call) {
    const { json, signal } = call;
    const name = call.positionals[0] as string;
    const redraw = process.stdout.isTTY && !json && call.flags["once"] !== true;
    await withBus(name, attachOptions(call), async (bus) => {
      do {
        const peers = bus.peers().filter(({ address }) => address !== bus.address);
        if (json) {
          print({ name, peers });
        } else {
          const rows = peers.map(({ address, master, pid, uid, lag, published, delivered, groups }) => [
            master ? `${address}*` : address,
            pid,
            uid,
            lag,
            published,
            delivered,
            groups.join(" "),
          ]);
          print(`${redraw ? `${clear}${name}: ${peers.length} attached\n` : ""}${table(heads, rows)}`);
        }
        if (call.flags["once"] === true) break;
        await pause(period, signal);
      } while (!signal.aborted);
    });
  },
};
