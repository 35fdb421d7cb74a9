import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Child, type Ending, scene, type Scene } from "./harness.ts";

const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));

/** A running command, its two outputs apart. */
class Command extends Child {
  out = "";
  err = "";

  constructor(scene: Scene, args: readonly string[], input: string | Uint8Array = "") {
    const env = { ...process.env, SHM_BUS_RUNTIME_DIR: scene.directory, TMPDIR: tmpdir() };
    const child = spawn(process.execPath, [main, ...args], { stdio: ["pipe", "pipe", "pipe"], env });
    super(child);
    child.stdout.on("data", (text: string) => {
      this.out += text;
    });
    child.stderr.on("data", (text: string) => {
      this.err += text;
    });
    child.stdin.on("error", () => {});
    child.stdin.end(input);
    running.add(this);
  }

  /** Waits until it has printed what matches. */
  async prints(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.out)) {
      const more = once(this.process.stdout!, "data");
      more.catch(() => {});
      const end = await Promise.race([more.then(() => undefined), this.ended]);
      if (end !== undefined && !pattern.test(this.out)) {
        assert.fail(`it ended with ${end} and had not printed ${String(pattern)}\n${this.output}`);
      }
    }
  }

  /** Asks it to end. */
  async stop(signal: NodeJS.Signals = "SIGINT"): Promise<void> {
    this.process.kill(signal);
    await this.expect(0);
    assert.equal(this.err, "");
  }
}

const running = new Set<Command>();

/** Runs a command to its end and gives what it printed. */
async function run(scene: Scene, args: string[], input?: string | Uint8Array): Promise<string> {
  const command = new Command(scene, args, input);
  await command.expect(0);
  assert.equal(command.err, "");
  return command.out;
}

/** Runs a command that must fail with one sentence. */
async function fails(scene: Scene, args: string[], ending: Ending, sentence: RegExp): Promise<void> {
  const command = new Command(scene, args);
  await command.expect(ending);
  assert.equal(command.out, "");
  assert.match(command.err, /^shm-bus: [^\n]+\n$/);
  assert.match(command.err, sentence);
}

async function serve(scene: Scene, name = "test"): Promise<Command> {
  const command = new Command(scene, ["serve", name, "--slots", "4096"]);
  await command.prints(/^serving .*\n/);
  return command;
}

/** Waits until somebody is in the group, as `top` shows it. */
async function joined(scene: Scene, group: string): Promise<void> {
  for (;;) {
    const { peers } = JSON.parse(await run(scene, ["top", "test", "--once", "--json"])) as {
      peers: { groups: string[] }[];
    };
    if (peers.some(({ groups }) => groups.includes(group))) return;
  }
}

const jsonLines = (text: string): unknown[] =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as unknown);

describe("command line", () => {
  afterEach(async () => {
    for (const command of running) {
      if (command.process.exitCode === null && command.process.signalCode === null) await command.kill();
    }
    running.clear();
  });

  scene("explains itself and refuses what makes no sense", async (scene) => {
    assert.match(await run(scene, ["--help"]), /^Usage: shm-bus COMMAND/);
    for (const name of ["serve", "ls", "top", "tap", "sub", "pub", "doctor"]) {
      assert.match(await run(scene, [name, "--help"]), new RegExp(`^Usage: shm-bus ${name}\\b`));
    }
    await fails(scene, [], 2, /a command is missing/);
    await fails(scene, ["constructor"], 2, /there is no command "constructor"/);
    await fails(scene, ["ls", "--bogus"], 2, /'--bogus'; see shm-bus ls --help/);
    await fails(scene, ["serve"], 2, /usage: shm-bus serve NAME/);
    await fails(scene, ["ls", "more"], 2, /usage: shm-bus ls/);
    await fails(scene, ["tap", "test", "g", "--count", "0"], 2, /--count must be a whole number/);
    await fails(scene, ["serve", "test", "--protocol", "-1"], 2, /--protocol/);
  });

  scene("fails with a code and leaves nothing behind", async (scene) => {
    for (const args of [["top"], ["tap"], ["pub"]] as const) {
      const [name] = args;
      const more = name === "top" ? [] : ["g", ...(name === "pub" ? ["text"] : [])];
      await fails(scene, [name, "test", ...more], 1, / \[ERR_SHM_BUS_NOT_FOUND\]/);
    }
    await fails(scene, ["serve", "a/b"], 1, / \[ERR_SHM_BUS_INVALID_NAME\]/);
    const missing = join(scene.directory, "missing");
    await fails(scene, ["ls", "--runtime-directory", missing], 1, / \[ENOENT\]/);
    await fails(scene, ["doctor", "--runtime-directory", missing], 1, / \[ERR_SHM_BUS_\w+\]/);
  });

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    scene(`serves until ${signal}, alone`, async (scene) => {
      const server = await serve(scene);
      await fails(scene, ["serve", "test"], 1, / \[ERR_SHM_BUS_EXISTS\]/);
      await server.stop(signal);
      assert.deepEqual(scene.files(), []);
    });
  }

  scene("lists the buses and who answers", async (scene) => {
    assert.equal(await run(scene, ["ls"]), "");
    const servers = [await serve(scene, "one"), await serve(scene, "two")];
    await scene.attach("one");
    writeFileSync(join(scene.directory, "dead.sock"), "");
    const [dead, one, two, ...rest] = jsonLines(await run(scene, ["ls", "--json"])) as {
      name: string;
      answers: boolean;
    }[];
    assert.deepEqual({ name: dead?.name, answers: dead?.answers }, { name: "dead", answers: false });
    assert.deepEqual(one, { name: "one", answers: true, attachments: 2, master: "0:0" });
    assert.deepEqual(two, { name: "two", answers: true, attachments: 1, master: "0:0" });
    assert.deepEqual(rest, []);
    const elsewhere = await run(scene, ["ls", "--runtime-directory", scene.directory]);
    assert.match(elsewhere, /^NAME .*\n(dead .*\n)?one +2 +0:0 +yes\ntwo +1 +0:0 +yes\n$/);
    await Promise.all(servers.map((server) => server.stop()));
  });

  scene("shows the attachments", async (scene) => {
    const server = await serve(scene);
    const bus = await scene.attach();
    await bus.subscribe(["cpu", "memory"]);
    const once = await run(scene, ["top", "test", "--once"]);
    assert.match(
      once,
      new RegExp(`^ADDRESS .*\n0:0\\* +${server.pid} .*\n0:1 +${process.pid} .* cpu memory\n$`),
    );
    const top = new Command(scene, ["top", "test", "--json"]);
    await top.prints(/\n.*\n/);
    await top.stop();
    const [first] = jsonLines(top.out) as { name: string; peers: { address: string; pid: number }[] }[];
    assert.equal(first?.name, "test");
    assert.deepEqual(
      first.peers.map(({ address, pid }) => [address, pid]),
      [
        ["0:0", server.pid],
        ["0:1", process.pid],
      ],
    );
    await bus.close();
    await server.stop();
  });

  scene("publishes, and taps in order", async (scene) => {
    const server = await serve(scene);
    const tap = new Command(scene, ["tap", "test", "a", "b", "--count", "3"]);
    const json = new Command(scene, ["tap", "test", "a", "b", "--count", "3", "--json"]);
    const hex = new Command(scene, ["sub", "test", "hex", "b", "--hex"]);
    const payloads = new Command(scene, ["sub", "test", "payloads", "b", "--count", "1"]);
    // Who is in `a` must be both of them.
    for (;;) {
      const { peers } = JSON.parse(await run(scene, ["top", "test", "--once", "--json"])) as {
        peers: { groups: string[] }[];
      };
      if (peers.filter(({ groups }) => groups.includes("a")).length === 2) break;
    }
    await joined(scene, "hex");
    await joined(scene, "payloads");
    const first = Number(await run(scene, ["pub", "test", "a", "one\u001b[2J\n"]));
    const { stamp: second } = JSON.parse(await run(scene, ["pub", "test", "b", "--json"], "two")) as {
      stamp: number;
    };
    const third = Number(await run(scene, ["pub", "test", "a"], Uint8Array.of(0xff, 0)));
    await Promise.all([tap.expect(0), json.expect(0), payloads.expect(0)]);
    assert.ok(first < second && second < third);
    const shown = tap.out.replace(/ 0:\d+ /g, " ");
    assert.equal(shown, `${first} a one\\x1b[2J\\n\n${second} b two\n${third} a ff00\n`);
    const told = jsonLines(json.out) as { stamp: number; sender: string }[];
    assert.deepEqual(
      told.map(({ sender, ...rest }) => [/^0:\d+$/.test(sender), rest]),
      [
        [true, { stamp: first, group: "a", bytes: 8, text: "one\u001b[2J\n" }],
        [true, { stamp: second, group: "b", bytes: 3, text: "two" }],
        [true, { stamp: third, group: "a", bytes: 2, hex: "ff00" }],
      ],
    );
    assert.equal(payloads.out, "two\n");
    await hex.prints(/^74776f\n$/);
    await hex.stop();
    await server.stop();
  });

  scene("makes a group only if it is told to", async (scene) => {
    const server = await serve(scene);
    await fails(scene, ["pub", "test", "new", "text"], 1, / \[ERR_SHM_BUS_UNKNOWN_GROUP\]/);
    assert.match(await run(scene, ["pub", "test", "new", "--create", "--", "--text"]), /^\d+\n$/);
    assert.match(await run(scene, ["pub", "test", "new"], new Uint8Array(1 << 20)), /^\d+\n$/);
    await server.stop();
  });

  scene("ends when nobody reads what it prints", async (scene) => {
    const server = await serve(scene);
    const tap = new Command(scene, ["tap", "test", "g"]);
    await joined(scene, "g");
    tap.process.stdout!.destroy();
    while (tap.process.exitCode === null) await run(scene, ["pub", "test", "g", "text"]);
    await tap.expect(0);
    await server.stop();
  });

  scene("finds this machine well", async (scene) => {
    const before = readdirSync(tmpdir()).filter((name) => name.startsWith("shm-bus-doctor-"));
    assert.match(await run(scene, ["doctor"]), /^ok: Linux /);
    const told = JSON.parse(
      await run(scene, ["doctor", "--json", "--runtime-directory", scene.directory]),
    ) as object;
    assert.deepEqual(Object.keys(told), ["ok", "kernel", "arch", "node"]);
    const after = readdirSync(tmpdir()).filter((name) => name.startsWith("shm-bus-doctor-"));
    assert.deepEqual(after, before);
    assert.match(readFileSync(main, "utf8"), /^#!\/usr\/bin\/env node\n/);
  });
});
