/** How much the tests under fire do: little in every test run, more in `npm run fire`, which prints what was done. */
export interface Counts {
  /** Worker threads that are terminated one after the other. */
  workers: number;
  /** Worker threads that live and are terminated at the same time. */
  atOnce: number;
  /** Messages under the eyes of the collector. */
  messages: number;
  /** Messages whose views are written to. */
  stores: number;
  /** Milliseconds in the debugger. */
  pause: number;
}

const asked = process.env["SHM_BUS_FIRE"];

export const counts: Counts = {
  workers: 60,
  atOnce: 16,
  messages: 300_000,
  stores: 2000,
  pause: 3000,
  ...(asked === undefined ? {} : (JSON.parse(asked) as Partial<Counts>)),
};

/** Prints a figure, if somebody asked for it. */
export function report(line: string): void {
  if (asked !== undefined) process.stdout.write(`      ${line}\n`);
}
