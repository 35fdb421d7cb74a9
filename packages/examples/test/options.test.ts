import assert from "node:assert/strict";
import { defaultRateHz, helpText, parseOptions } from "../src/telemetry/options.ts";

describe("telemetry options", () => {
  it("has defaults", () => {
    assert.deepEqual(parseOptions([]), {
      kind: "run",
      options: { seconds: undefined, rateHz: defaultRateHz, json: false },
    });
  });

  it("reads every flag in both spellings", () => {
    const expected = { kind: "run", options: { seconds: 2.5, rateHz: 10_000, json: true } };
    assert.deepEqual(parseOptions(["--seconds", "2.5", "--rate", "10000", "--json"]), expected);
    assert.deepEqual(parseOptions(["--json", "--rate=1e4", "--seconds=2.5"]), expected);
  });

  it("shows help, whatever else is right", () => {
    assert.deepEqual(parseOptions(["--rate", "5", "--help"]), { kind: "help", text: helpText });
    for (const flag of ["--seconds", "--rate", "--json", "--help"]) assert.ok(helpText.includes(flag));
    for (const line of helpText.split("\n")) assert.ok(line.length <= 90, line);
  });

  const rateError = (value: string): string =>
    `--rate must be a number of Hz above 0 and at most 10000, not "${value}".`;
  const secondsError = (value: string): string =>
    `--seconds must be a number above 0 and at most 2147483, not "${value}".`;
  const cases: readonly (readonly [args: readonly string[], message: string])[] = [
    [["--rate", "0"], rateError("0")],
    [["--rate", "10000.1"], rateError("10000.1")],
    [["--rate", "NaN"], rateError("NaN")],
    [["--rate", "fast"], rateError("fast")],
    [["--rate=0x10"], rateError("0x10")],
    [["--rate=Infinity"], rateError("Infinity")],
    [["--rate=-5"], rateError("-5")],
    [["--rate="], rateError("")],
    [["--rate", "5 "], rateError("5 ")],
    [["--seconds", "0"], secondsError("0")],
    [["--seconds=-1"], secondsError("-1")],
    [["--seconds", "1e9"], secondsError("1e9")],
    [["--seconds", "ten"], secondsError("ten")],
    [["--rate"], "--rate needs a number, see --help."],
    [["--json=yes"], "--json takes no value, see --help."],
    [["--help=1"], "--help takes no value, see --help."],
    [["--fast"], "There is no flag --fast, see --help."],
    [["-x"], "There is no flag -x, see --help."],
    [["--no-json"], "There is no flag --no-json, see --help."],
    [["now"], '"now" is not expected here, see --help.'],
    [["--", "now"], '"now" is not expected here, see --help.'],
    [["--help", "--rate", "0"], rateError("0")],
  ];
  for (const [args, message] of cases) {
    it(`refuses ${args.join(" ")}`, () => {
      assert.deepEqual(parseOptions(args), { kind: "error", message, exitCode: 2 });
    });
  }
});
