/** The native half of the benchmark: builds it, runs it, reads its answers. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../../", import.meta.url));

/** An answer of the program: numbers by name, and lists of them. */
export type NativeAnswer = Readonly<Record<string, unknown>>;

async function run(program: string, args: readonly string[]): Promise<string> {
  const child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => (text += part));
  const status = await new Promise<number | string | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? signal));
  });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${status}`);
  return text;
}

/** Builds the program unless it is as new as its sources; returns its path. */
export async function buildNative(profile: "release" | "dev"): Promise<string> {
  const args = ["build", "--quiet", "-p", "shm-bus-bench", "--profile", profile];
  const lines = (await run("cargo", [...args, "--message-format=json-render-diagnostics"])).split("\n");
  for (const line of lines.filter((line) => line.startsWith("{"))) {
    const { executable } = JSON.parse(line) as { executable?: string | null };
    if (typeof executable === "string") return executable;
  }
  throw new Error("cargo did not say where it put shm-bus-bench");
}

/** Runs one measurement. */
export async function measureNative(
  program: string,
  args: readonly (string | number)[],
): Promise<NativeAnswer> {
  return JSON.parse(await run(program, args.map(String))) as NativeAnswer;
}

/** A number of an answer. */
export function numberOf(answer: NativeAnswer, name: string): number {
  const value = answer[name];
  if (typeof value !== "number")
    throw new Error(`the answer has no number ${name}: ${JSON.stringify(answer)}`);
  return value;
}
