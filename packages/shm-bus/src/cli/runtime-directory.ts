import { statSync } from "node:fs";
import { isAbsolute, join } from "node:path";

/** Where buses live unless told otherwise: the rule of the Rust core (`RuntimeDir::default_path`). */
export function defaultRuntimeDirectory(): string {
  const { SHM_BUS_RUNTIME_DIR: own = "", XDG_RUNTIME_DIR: session = "" } = process.env;
  if (isAbsolute(own)) return own;
  if (isAbsolute(session)) return join(session, "shm-bus");
  const uid = process.geteuid?.() ?? 0;
  const ofUser = `/run/user/${uid}`;
  return statSync(ofUser, { throwIfNoEntry: false })?.isDirectory() === true
    ? join(ofUser, "shm-bus")
    : `/tmp/shm-bus-${uid}`;
}
