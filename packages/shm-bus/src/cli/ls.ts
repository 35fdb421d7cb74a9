import { readdir } from "node:fs/promises";

import { type AttachOptions, ShmBusError } from "../index.ts";
import { attachOptions, type Command, namedDirectory, withBus } from "./command.ts";
import { print, printable, table } from "./output.ts";
import { defaultRuntimeDirectory } from "./runtime-directory.ts";

const suffix = ".sock";
/** How long a bus has to answer. Milliseconds. */
const patience = 1000;

interface Row {
  readonly name: string;
  readonly answers: boolean;
  /** Why it did not let this command in. */
  readonly code?: string;
  readonly attachments?: number;
  readonly master?: string | undefined;
}

async function look(name: string, options: AttachOptions): Promise<Row> {
  try {
    return await withBus(name, options, (bus) => {
      const others = bus.peers().filter(({ address }) => address !== bus.address);
      const master = others.find((peer) => peer.master)?.address;
      return Promise.resolve({ name, answers: true, attachments: others.length, master });
    });
  } catch (error) {
    if (!(error instanceof ShmBusError)) throw error;
    // A master that refuses has answered.
    const answers = error.code === "ERR_SHM_BUS_REFUSED" || error.code === "ERR_SHM_BUS_LIMIT";
    return { name, answers, code: error.code };
  }
}

export const command: Command = {
  usage: "",
  help: `Lists the buses that have a socket in the runtime directory: attachments (without this command's own),
the master's address, and whether it answers. Buses whose names start with @ have no socket file.`,
  options: {},
  words: [0, 0],

  async run(call) {
    const named = namedDirectory(call.flags);
    let files: string[] = [];
    try {
      files = await readdir(named ?? defaultRuntimeDirectory());
    } catch (error) {
      // The default directory is made by the first bus.
      if (named !== undefined || (error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    const names = files.filter((file) => file.endsWith(suffix)).map((file) => file.slice(0, -suffix.length));
    const options = { ...attachOptions(call), timeout: patience };
    const rows: Row[] = [];
    for (const name of names.sort()) rows.push(await look(name, options));
    if (call.json) {
      rows.forEach(print);
    } else if (rows.length > 0) {
      const cells = rows.map(({ name, attachments, master, answers, code }) => [
        printable(name),
        String(attachments ?? "-"),
        master ?? "-",
        `${answers ? "yes" : "no"}${code === undefined ? "" : ` [${code}]`}`,
      ]);
      print(table(["NAME", "ATTACHMENTS", "MASTER", "ANSWERS"], cells));
    }
  },
};
