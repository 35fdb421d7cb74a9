// Checks the Spin models beside docs/protocol.md: every variant of every model, against what the model itself says of it.
//
//   node scripts/models.mjs                     all (also `npm run models`)
//   node scripts/models.mjs --quick             those marked quick: part of `npm test`
//   node scripts/models.mjs --model gate        one model (may be given again); --variant NAME: one variant
//   node scripts/models.mjs --json | --list | --markdown | --jobs N | --trail
//
// A model's header says its variants in lines of this form (the C macros are what the variant is made of):
//
//   @run NAME [-DMACRO[=VALUE]]... holds|fails PROPERTY [quick] [words]
//
// Ends with 0 if every variant does what it says, 1 if one does not, 2 for wrong arguments, 77 without spin or a C compiler.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { root } from "./setup.mjs";

const directory = join(root, "docs/models");
/** Megabytes that all checkers together may take. */
const memory = 3600;
const deepest = 1_000_000;

/** The variants that a model's header lists. */
function variantsOf(file) {
  const model = file.replace(/\.pml$/, "");
  const lines = readFileSync(join(directory, file), "utf8").matchAll(/^ \* @run (.*)$/gm);
  return Array.from(lines, ([, line]) => {
    const parts = line.match(/^(\S+)((?: +-D\S+)*) +(?:holds|fails +(\w+))(?: +(quick))?(?: +(\S.*))?$/);
    if (parts === null) throw new Error(`docs/models/${file} has a line that says no variant: ${line}`);
    const [, name, macros, property, quick, words = ""] = parts;
    const flags = macros.trim().split(/ +/).filter(Boolean);
    return { model, name, flags, property, quick: quick !== undefined, words };
  });
}

/** Runs a program to its end: its status and what it printed. */
function run(program, args, cwd) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => (output += text));
    }
    child.on("error", (error) => resolve({ status: 127, output: error.message }));
    child.on("close", (status) => resolve({ status, output }));
  });
}

/** What a checker's output says. */
function verdict(output) {
  const number = (pattern) => Number(output.match(pattern)?.[1] ?? 0);
  const found = {
    states: number(/^\s*(\d+) states, stored/m),
    depth: number(/depth reached (\d+)/),
    seconds: number(/elapsed time ([\d.]+) seconds/),
  };
  const violated = output.match(/assertion violated .*\|\|(\w+)\)/)?.[1];
  if (violated !== undefined) return { ...found, result: "fails", violates: violated };
  if (/^pan:\d+: invalid end state/m.test(output)) return { ...found, result: "fails", violates: "end" };
  const complete = /errors: 0$/m.test(output) && !/Search not completed|MEMLIM|max search depth/.test(output);
  return { ...found, result: complete ? "holds" : "unfinished" };
}

/** Generates, compiles and runs the checker of one variant. */
async function check(variant, megabytes, keepTrail) {
  const scratch = mkdtempSync(join(tmpdir(), "shm-bus-model-"));
  scratches.add(scratch);
  try {
    const source = join(directory, `${variant.model}.pml`);
    // One that fails does so soon: what its compiler saves is more than what its checker costs.
    const effort = variant.property === undefined ? "-O2" : "-O0";
    const limits = ["-DSAFETY", `-DMEMLIM=${megabytes}`, "-DVECTORSZ=512", "-DNOFAIR"];
    const steps = [
      ["spin", [...variant.flags, "-a", source]],
      ["cc", [effort, "-w", ...limits, "-o", "pan", "pan.c"]],
      [join(scratch, "pan"), ["-n", "-b", `-m${deepest}`, "-w20"]],
    ];
    let last = { output: "" };
    for (const [program, args] of steps) {
      last = await run(program, args, scratch);
      if (last.status !== 0) break;
    }
    const found = verdict(last.output);
    const asSaid =
      variant.property === undefined
        ? found.result === "holds"
        : found.result === "fails" && found.violates === variant.property;
    const problem = asSaid || found.result !== "unfinished" ? {} : { problem: last.output.trim() };
    if (keepTrail && found.result === "fails") {
      const trail = readdirSync(scratch).find((name) => name.endsWith(".trail"));
      const shown = await run("spin", [...variant.flags, "-p", "-g", "-k", trail, source], scratch);
      return { ...variant, ...found, asSaid, ...problem, trail: shown.output };
    }
    return { ...variant, ...found, asSaid, ...problem };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
    scratches.delete(scratch);
  }
}

const scratches = new Set();
process.on("exit", () => {
  for (const scratch of scratches) rmSync(scratch, { recursive: true, force: true });
});

/** Calls `work` for each item, `jobs` at a time. */
async function forEach(items, jobs, work) {
  const waiting = items.values();
  const worker = async () => {
    for (const item of waiting) await work(item);
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

const outcome = (row) => {
  if (row.result === "unfinished") return "NOT FINISHED";
  if (row.asSaid) return row.result === "holds" ? "holds" : "fails as it must";
  return row.result === "holds" ? "HOLDS, and must not" : `FAILS ${row.violates}`;
};

function printer(variants) {
  const width = (values) => Math.max(...values.map((value) => value.length));
  const models = width(["model", ...variants.map((v) => v.model)]);
  const names = width(["variant", ...variants.map((v) => v.name)]);
  const properties = width(["property", "all", ...variants.map((v) => v.property ?? "all")]);
  return (model, name, property, states, depth, result) =>
    [
      model.padEnd(models),
      name.padEnd(names),
      property.padEnd(properties),
      states.padStart(11),
      depth.padStart(7),
      result,
    ].join("  ");
}

/** The table of docs/protocol.md: a model's properties, states and failing variants. */
function markdown(rows) {
  const lines = [
    "| model | states, exhaustive | variants that fail, and the property that they break |",
    "|---|---|---|",
  ];
  for (const model of new Set(rows.map((row) => row.model))) {
    const of = rows.filter((row) => row.model === model);
    const holding = of.filter((row) => row.property === undefined);
    const failing = of.filter((row) => row.property !== undefined);
    const states = holding.map((row) => `${row.name} ${row.states.toLocaleString("en")}`).join(", ");
    const failures = failing.map((row) => `${row.name} (${row.property})`).join(", ");
    lines.push(`| [${model}](models/${model}.pml) | ${states} | ${failures} |`);
  }
  return `${lines.join("\n")}\n`;
}

function options() {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      model: { type: "string", multiple: true },
      variant: { type: "string", multiple: true },
      jobs: { type: "string", default: String(Math.min(2, availableParallelism())) },
      json: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
      markdown: { type: "boolean", default: false },
      trail: { type: "boolean", default: false },
    },
  });
  const jobs = Number(values.jobs);
  if (!Number.isInteger(jobs) || jobs < 1) throw new Error(`--jobs ${values.jobs} is no number of jobs`);
  return { ...values, jobs };
}

/** One sentence if the models cannot be checked here. */
function missing() {
  const runs = (program, argument) => spawnSync(program, [argument], { stdio: "ignore" }).status === 0;
  if (!runs("spin", "-V")) {
    return "The models are skipped: spin is not installed (Debian and Ubuntu: apt-get install spin).";
  }
  if (!runs("cc", "--version")) return "The models are skipped: there is no C compiler cc.";
  return undefined;
}

async function main() {
  let wanted;
  let variants;
  try {
    wanted = options();
    const files = readdirSync(directory).filter((name) => name.endsWith(".pml"));
    variants = files
      .toSorted()
      .flatMap(variantsOf)
      .filter((v) => !wanted.quick || v.quick)
      .filter((v) => wanted.model?.includes(v.model) ?? true)
      .filter((v) => wanted.variant?.includes(v.name) ?? true);
    if (variants.length === 0) throw new Error("no such model or variant");
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    return 2;
  }
  if (wanted.list) {
    const words = (v) => `${v.model} ${v.name}: ${v.property ? `fails ${v.property}` : "holds"}  ${v.words}`;
    process.stdout.write(`${variants.map(words).join("\n")}\n`);
    return 0;
  }
  const why = missing();
  if (why !== undefined) {
    process.stdout.write(wanted.json ? `${JSON.stringify({ skipped: why })}\n` : `${why}\n`);
    return 77;
  }
  const table = !wanted.json && !wanted.markdown;
  const say = (text) => (table ? process.stdout : process.stderr).write(`${text}\n`);
  const line = printer(variants);
  if (table) say(line("model", "variant", "property", "states", "depth", "result"));
  const rows = [];
  await forEach(variants, wanted.jobs, async (variant) => {
    const row = await check(variant, Math.floor(memory / wanted.jobs), wanted.trail);
    rows.push(row);
    if (table || !row.asSaid) {
      const { model, name, property = "all", states, depth } = row;
      say(line(model, name, property, states.toLocaleString("en"), String(depth), outcome(row)));
    }
    if (row.problem !== undefined) say(row.problem);
    if (row.trail !== undefined) say(row.trail);
  });
  const place = (row) => variants.findIndex((v) => v.model === row.model && v.name === row.name);
  rows.sort((a, b) => place(a) - place(b));
  const failed = rows.filter((row) => !row.asSaid).length;
  if (wanted.json)
    process.stdout.write(`${JSON.stringify({ passed: rows.length - failed, failed, rows })}\n`);
  if (wanted.markdown) process.stdout.write(markdown(rows));
  if (table) say(`models: ${rows.length - failed} as they say, ${failed} not`);
  return failed > 0 ? 1 : 0;
}

process.exitCode = await main();
