// Sets up a checkout: checks the tools, builds the native addon, builds the TypeScript packages.
// Plain Node.js without dependencies. Everything it prints goes to stderr.
//
//   node scripts/setup.mjs              build all (also `npm run build`)
//   node scripts/setup.mjs --prepare    the same, unless installed as a dependency (run by `npm ci`)
//   node scripts/setup.mjs --if-stale   build only when a source is newer than the last build
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

const oldestNode = [20, 19];
const oldestRust = [1, 88];
const napi = join(root, "node_modules/@napi-rs/cli/dist/cli.js");
const tsc = join(root, "node_modules/typescript/bin/tsc");
const stamp = join(root, "node_modules/.shm-bus-built");
const nativeDir = join(root, "packages/native");

const say = (text) => process.stderr.write(`${text}\n`);

/** First line that a program prints, or undefined where it cannot be run. */
function firstLine(program, args) {
  const result = spawnSync(program, args, { cwd: root, encoding: "utf8" });
  return result.status === 0 ? result.stdout.split("\n", 1)[0] : undefined;
}

function isOlder(version, oldest) {
  const [major, minor] = version.split(".").map(Number);
  return major < oldest[0] || (major === oldest[0] && minor < oldest[1]);
}

/** One sentence for each tool that is missing or too old. */
export function toolProblems() {
  const problems = [];
  if (process.platform !== "linux") {
    problems.push(`shm-bus runs on Linux only, and this is ${process.platform}.`);
  } else if (process.arch !== "x64" && process.arch !== "arm64") {
    problems.push(`shm-bus runs on x64 and arm64 only, and this Node.js is built for ${process.arch}.`);
  }
  if (isOlder(process.versions.node, oldestNode)) {
    problems.push(
      `Node.js ${process.versions.node} is too old: install Node.js ${oldestNode.join(".")} or newer.`,
    );
  }
  for (const tool of ["cargo", "rustc"]) {
    const line = firstLine(tool, ["--version"]);
    const version = line?.match(/\d+\.\d+\.\d+/)?.[0];
    if (version === undefined) {
      problems.push(`${tool} was not found or does not run: install Rust from https://rustup.rs.`);
    } else if (isOlder(version, oldestRust)) {
      problems.push(`${tool} ${version} is too old: install Rust ${oldestRust.join(".")} or newer.`);
    }
  }
  if (firstLine("cc", ["--version"]) === undefined) {
    problems.push(
      "The C linker cc was not found or does not run: install a C compiler such as gcc (Debian and Ubuntu: build-essential).",
    );
  }
  if (!existsSync(napi) || !existsSync(tsc)) {
    problems.push("The development dependencies are not installed: run npm ci.");
  }
  return problems;
}

/** The command that builds the native addon into packages/native. */
export function nativeCommand() {
  const flags = ["--release", "--platform", "--strip", "--no-const-enum"];
  const paths = [
    ["--manifest-path", join(root, "crates/shm-bus-node/Cargo.toml")],
    ["--package-json-path", join(nativeDir, "package.json")],
    ["--target-dir", join(root, "target")],
    ["--output-dir", nativeDir],
    ["--js", "binding.cjs"],
    ["--dts", "binding.d.cts"],
  ];
  return [process.execPath, napi, "build", ...flags, ...paths.flat()];
}

/** The command that builds and type-checks all TypeScript projects. */
export function typeScriptCommand() {
  return [process.execPath, tsc, "-b"];
}

/** Notes that what is built is as new as `started`, so that `--if-stale` can tell. */
export function markBuilt(started) {
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, "");
  utimesSync(stamp, started, started);
}

function run([program, ...args]) {
  // The child's stdout goes to stderr: `npm start -- --json` must print JSON only.
  const result = spawnSync(program, args, { cwd: root, stdio: ["ignore", 2, 2] });
  return result.status === 0;
}

function build() {
  const problems = toolProblems();
  if (problems.length > 0) {
    problems.forEach(say);
    return false;
  }
  const started = new Date();
  rmSync(stamp, { force: true });
  say("Building the native addon (the first time takes a minute or two) ...");
  if (!run(nativeCommand())) {
    say("The native addon did not build: the messages above say why.");
    return false;
  }
  say("Building the TypeScript packages ...");
  if (!run(typeScriptCommand())) {
    say("The TypeScript packages did not build: the messages above say why.");
    return false;
  }
  markBuilt(started);
  say("Everything is built.");
  return true;
}

/** Whether a file below `path` is newer than `time`. Build outputs and tests do not count. */
function hasNewer(path, time) {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return false;
  if (!stat.isDirectory()) return stat.mtimeMs > time;
  return readdirSync(path).some((name) => {
    if (["node_modules", "dist", "target", "test", "tests", "benches"].includes(name)) return false;
    if (/\.(node|md)$|^binding\./.test(name)) return false;
    return hasNewer(join(path, name), time);
  });
}

function isStale() {
  const built = statSync(stamp, { throwIfNoEntry: false })?.mtimeMs;
  if (built === undefined || !existsSync(join(nativeDir, "binding.cjs"))) return true;
  const dirs = readdirSync(join(root, "packages"));
  if (
    dirs.some(
      (d) => existsSync(join(root, "packages", d, "src")) && !existsSync(join(root, "packages", d, "dist")),
    )
  ) {
    return true;
  }
  const sources = ["Cargo.toml", "Cargo.lock", "crates", "packages", "tsconfig.json", "tsconfig.base.json"];
  return sources.some((name) => hasNewer(join(root, name), built));
}

/** npm runs `prepare` also where it packs a checkout as somebody's dependency: nothing to build there. */
function isDependency() {
  const cache = process.env.npm_config_cache;
  return root.includes(`${sep}node_modules${sep}`) || (cache !== undefined && root.startsWith(cache + sep));
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const option = process.argv[2];
  const nothingToDo = (option === "--prepare" && isDependency()) || (option === "--if-stale" && !isStale());
  if (!nothingToDo && !build()) process.exitCode = 1;
}
