/** The benchmark: `npm run bench -- [--quick] [--json]`. */
import { measure } from "./driver.ts";
import { describeMachine } from "./machine.ts";
import { buildNative } from "./native.ts";
import { type BenchOptions, helpText, parseOptions } from "./options.ts";
import { plan } from "./plan.ts";
import { reportText } from "./report.ts";

const say = (text: string) => process.stderr.write(text);

async function bench({ json, settings }: BenchOptions): Promise<number> {
  // Before anything is built: a build's own load says nothing about the machine.
  const machine = await describeMachine(500);
  say("Building shm-bus-bench unless it is built ...\n");
  const native = await buildNative("release");
  const { isTTY } = process.stderr;
  const progress = (text: string) => say(isTTY ? `\r\u001b[K${text}` : `${text}\n`);
  const report = await measure(plan, { native, settings }, machine, progress);
  if (isTTY) say("\r\u001b[K");
  process.stdout.write(json ? `${JSON.stringify(report)}\n` : reportText(report));
  return report.figures.some((figure) => figure.lost > 0) ? 1 : 0;
}

async function main(): Promise<number> {
  let options: BenchOptions;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (error) {
    say(`${(error as Error).message}\nSee --help.\n`);
    return 2;
  }
  if (options.help) {
    process.stdout.write(helpText);
    return 0;
  }
  try {
    return await bench(options);
  } catch (error) {
    say(`The benchmark failed: ${(error as Error).message}\n`);
    return 1;
  }
}

process.exitCode = await main();
