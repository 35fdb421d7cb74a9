// Runs every check and test suite, and ends with one line: "N passed, N failed[, N skipped]".
//
//   node scripts/test.mjs                        all (also `npm test`)
//   node scripts/test.mjs --only rust|ts|lint    only the Rust tests, the TypeScript tests, or the linters
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { markBuilt, nativeCommand, root, toolProblems, typeScriptCommand } from "./setup.mjs";

const groups = ["lint", "rust", "ts"];
const [option, only, ...rest] = process.argv.slice(2);
if (option !== undefined && (option !== "--only" || !groups.includes(only) || rest.length > 0)) {
  process.stderr.write(`Usage: node scripts/test.mjs [--only ${groups.join("|")}]\n`);
  process.exit(2);
}
const wants = (group) => only === undefined || only === group;

const total = { passed: 0, failed: 0, skipped: 0 };
const failures = [];
const colour = process.stdout.isTTY ? { CARGO_TERM_COLOR: "always", FORCE_COLOR: "1" } : {};
const scratch = mkdtempSync(join(tmpdir(), "shm-bus-test-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));

/** Adds a suite's counts. A suite that failed without reporting a failure counts as one failure. */
function count(title, ok, { passed, failed, skipped }) {
  const failedAtLeast = ok ? failed : Math.max(failed, 1);
  total.passed += passed;
  total.failed += failedAtLeast;
  total.skipped += skipped;
  if (failedAtLeast > 0) failures.push(title);
}

/** Runs a command, its output live on the console, and hands each line of its stdout to `onLine`. */
function run([program, ...args], { env = {}, cwd = root, onLine } = {}) {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd,
      env: { ...process.env, ...colour, ...env },
      stdio: ["ignore", onLine === undefined ? "inherit" : "pipe", "inherit"],
    });
    let pending = "";
    child.stdout?.on("data", (data) => process.stdout.write(data));
    child.stdout?.setEncoding("utf8").on("data", (text) => {
      const lines = (pending + text).split("\n");
      pending = lines.pop();
      lines.forEach(onLine);
    });
    child.on("error", (error) => {
      process.stdout.write(`${program}: ${error.message}\n`);
      resolve(false);
    });
    child.on("close", (status) => {
      if (pending !== "") onLine(pending);
      resolve(status === 0);
    });
  });
}

const heading = (title) => process.stdout.write(`\n=== ${title}\n`);

/** A step that counts as one test. */
async function check(title, command, options) {
  heading(title);
  const ok = await run(command, options);
  count(title, ok, { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 });
  return ok;
}

/** A `cargo test` run: the counts are the sum of its "test result:" lines. */
async function cargoTest(title, args, env) {
  heading(title);
  const sum = { passed: 0, failed: 0, skipped: 0 };
  const onLine = (line) => {
    const plain = line.replace(/\u001b\[[0-9;]*m/g, "");
    const found = plain.match(/^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored;/);
    if (found === null) return;
    sum.passed += Number(found[1]);
    sum.failed += Number(found[2]);
    sum.skipped += Number(found[3]);
  };
  const ok = await run(["cargo", "test", "--no-fail-fast", ...args], { env, onLine });
  count(title, ok, sum);
}

/** A package's mocha run: the reporter writes the counts to a file. */
async function mochaTest(name) {
  const title = `mocha: packages/${name}`;
  heading(title);
  const counts = join(scratch, `${name}.json`);
  const reporter = join(root, "scripts/mocha-reporter.cjs");
  const command = [process.execPath, bin("mocha/bin/mocha.js"), "--reporter", reporter];
  let ok = await run(command, { cwd: join(root, "packages", name), env: { MOCHA_COUNTS: counts } });
  const sum = { passed: 0, failed: 0, skipped: 0 };
  if (existsSync(counts)) {
    const { passes, failures: failed, pending } = JSON.parse(readFileSync(counts, "utf8"));
    Object.assign(sum, { passed: passes, failed, skipped: pending });
  } else {
    ok = false;
  }
  count(title, ok, sum);
}

/** The quick part of the models: each variant counts as a test. */
async function modelTest() {
  const title = "models";
  heading(title);
  const sum = { passed: 0, failed: 0, skipped: 0 };
  const onLine = (line) => {
    const found = line.match(/^models: (\d+) as they say, (\d+) not$/);
    if (found !== null) [sum.passed, sum.failed] = [Number(found[1]), Number(found[2])];
    if (line.startsWith("The models are skipped: ")) sum.skipped = 1;
  };
  const ok = await run([process.execPath, join(root, "scripts/models.mjs"), "--quick"], { onLine });
  count(title, ok || sum.skipped > 0, sum);
}

const bin = (path) => join(root, "node_modules", path);
const files = (path, pattern) => {
  const dir = join(root, path);
  return existsSync(dir) ? readdirSync(dir, { recursive: true }).filter((name) => pattern.test(name)) : [];
};

const problems = toolProblems();
if (problems.length > 0) {
  problems.forEach((problem) => process.stderr.write(`${problem}\n`));
  process.exit(1);
}

if (wants("lint")) {
  await check("rustfmt", ["cargo", "fmt", "--all", "--check"]);
  await check("clippy", ["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
  await check("oxlint", [process.execPath, bin("oxlint/bin/oxlint"), "--deny-warnings"]);
  await check("oxfmt", [process.execPath, bin("oxfmt/bin/oxfmt"), "--check"]);
}

if (wants("rust")) {
  await cargoTest("cargo test", ["--workspace"], {});
  if (files("crates/shm-bus-ring/tests", /^loom_.*\.rs$/).length > 0) {
    await cargoTest("loom", ["--profile", "loom", "-p", "shm-bus-ring", "--test", "loom_*"], {
      RUSTFLAGS: `${process.env.RUSTFLAGS ?? ""} --cfg loom`.trim(),
      CARGO_TARGET_DIR: join(root, "target/loom"),
    });
  }
  await modelTest();
}

if (wants("ts")) {
  const started = new Date();
  const nativeBuilt = await check("native addon", nativeCommand());
  const typesRight = await check("tsc", typeScriptCommand());
  if (nativeBuilt && typesRight) markBuilt(started);
}

if (wants("ts")) {
  for (const name of readdirSync(join(root, "packages")).toSorted()) {
    if (files(`packages/${name}/test`, /\.test\.ts$/).length > 0) await mochaTest(name);
  }
}

if (failures.length > 0) process.stdout.write(`\nFailed: ${failures.join("; ")}\n`);
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
process.exitCode = total.failed > 0 ? 1 : 0;
process.stdout.write(`\n${total.passed} passed, ${total.failed} failed${skipped}\n`);
