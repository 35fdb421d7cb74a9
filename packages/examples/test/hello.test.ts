import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { Program, runtimeDirectory } from "./programs.ts";

describe("hello", () => {
  it("prints what went through the bus and leaves nothing behind", async () => {
    const directory = runtimeDirectory();
    const hello = new Program("hello.js", [], directory);
    assert.deepEqual(await hello.exited, { code: 0, signal: null });
    assert.match(
      hello.stdout,
      /^\d+: 0:0 says Hello\n\d+: 0:0 says from\n\d+: 0:0 says shared\n\d+: 0:0 says memory\n$/,
    );
    assert.equal(hello.stderr, "");
    assert.deepEqual(readdirSync(directory), []);
  });
});
