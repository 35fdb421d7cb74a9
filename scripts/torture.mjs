// The torture: the models beside docs/protocol.md, then processes killed and stopped. Arguments are the rig's:
// see `npm run torture -- --help`. What names a part of the rig runs that alone.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { root } from "./setup.mjs";

const args = process.argv.slice(2);
const has = (...names) => args.some((arg) => names.includes(arg.split("=", 1)[0]));
const part = has(
  ..."--only --start --mode --at --every --pairs --seed --plan --mutant --list --help -h".split(" "),
);

/** Runs a program on this console and gives its exit status. */
function run(program, programArgs, stdout) {
  const result = spawnSync(program, programArgs, { cwd: root, stdio: ["inherit", stdout, "inherit"] });
  if (result.error !== undefined) process.stderr.write(`${program}: ${result.error.message}\n`);
  return result.status ?? 1;
}

let models = 0;
if (!part) {
  const quick = has("--short", "--cases", "--minutes") ? ["--quick"] : [];
  // The rig's JSON is to stand alone.
  models = run(process.execPath, [join(root, "scripts/models.mjs"), ...quick], has("--json") ? 2 : "inherit");
}
const rig = run("cargo", ["run", "--quiet", "--release", "-p", "shm-bus-torture", "--", ...args], "inherit");
// Models that could not be checked have said so, and are no failure.
process.exitCode = rig === 0 && models !== 77 ? models : rig;
