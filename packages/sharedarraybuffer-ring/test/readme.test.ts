import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

const root = join(import.meta.dirname, "..");

describe("README", () => {
  it("has an example that runs", async () => {
    const example = readFileSync(join(root, "README.md"), "utf8").match(/^```js\n(.*?)^```$/ms)?.[1];
    assert.ok(example);
    // In the package, so that the import of its own name works.
    const path = join(root, "test", `.readme-${process.pid}.mjs`);
    writeFileSync(path, example);
    try {
      const { stdout } = await promisify(execFile)(process.execPath, [path], { timeout: 15_000 });
      assert.equal(stdout, "1 one\n2 two\n3 three\n");
    } finally {
      rmSync(path);
    }
  });
});
