// Mocha's spec reporter, which also writes the counts as JSON to the file named by MOCHA_COUNTS.
"use strict";
const { writeFileSync } = require("node:fs");
const { reporters, Runner } = require("mocha");

module.exports = class CountingSpec extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    runner.once(Runner.constants.EVENT_RUN_END, () => {
      const { passes, failures, pending } = this.stats;
      if (process.env.MOCHA_COUNTS) {
        writeFileSync(process.env.MOCHA_COUNTS, JSON.stringify({ passes, failures, pending }));
      }
    });
  }
};
