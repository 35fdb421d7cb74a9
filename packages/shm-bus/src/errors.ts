/** Codes of {@link ShmBusError}. They are stable: match on them, not on messages. */
export type ShmBusErrorCode =
  | "ERR_SHM_BUS_INVALID_NAME"
  | "ERR_SHM_BUS_INVALID_OPTION"
  | "ERR_SHM_BUS_INVALID_DATA"
  | "ERR_SHM_BUS_RUNTIME_DIRECTORY"
  | "ERR_SHM_BUS_UNSUPPORTED"
  | "ERR_SHM_BUS_SYSTEM"
  | "ERR_SHM_BUS_NOT_FOUND"
  | "ERR_SHM_BUS_EXISTS"
  | "ERR_SHM_BUS_NO_MASTER"
  | "ERR_SHM_BUS_LAYOUT_VERSION"
  | "ERR_SHM_BUS_REFUSED"
  | "ERR_SHM_BUS_LIMIT"
  | "ERR_SHM_BUS_UNKNOWN_GROUP"
  | "ERR_SHM_BUS_UNKNOWN_ADDRESS"
  | "ERR_SHM_BUS_UNREACHABLE"
  | "ERR_SHM_BUS_DUPLICATE_DESTINATION"
  | "ERR_SHM_BUS_TOO_BIG"
  | "ERR_SHM_BUS_WOULD_BLOCK"
  | "ERR_SHM_BUS_CLOSED"
  | "ERR_SHM_BUS_EVICTED"
  | "ERR_SHM_BUS_SPOILED"
  | "ERR_SHM_BUS_PROTOCOL"
  | "ERR_SHM_BUS_LOAN_ENDED"
  | "ERR_SHM_BUS_LEASE_ENDED"
  | "ERR_SHM_BUS_IN_USE"
  | "ERR_SHM_BUS_EXTERNAL_MEMORY"
  | "ERR_SHM_BUS_INTERNAL";

/** What a {@link ShmBusError} can carry besides its code and message. */
export interface ShmBusErrorDetails {
  /** The system call that failed, where the system said no. */
  syscall?: string;
  /** Its error number. */
  errno?: number;
  /** The first stamp that was not delivered intact, for `ERR_SHM_BUS_EVICTED`. */
  stamp?: number;
  /** What caused it. */
  cause?: unknown;
}

/** The one error class of shm-bus. Whatever a call throws, nothing of it happened. */
export class ShmBusError extends Error {
  override readonly name = "ShmBusError";
  /** Stable code. */
  readonly code: ShmBusErrorCode;
  readonly syscall?: string;
  readonly errno?: number;
  readonly stamp?: number;

  constructor(code: ShmBusErrorCode, message: string, details: ShmBusErrorDetails = {}) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.code = code;
    if (details.syscall !== undefined) this.syscall = details.syscall;
    if (details.errno !== undefined) this.errno = details.errno;
    if (details.stamp !== undefined) this.stamp = details.stamp;
  }
}

/** The addon puts code, message, system call, error number and stamp into one string, with this between them. */
const separator = "\u001f";

/** What the addon threw, as a {@link ShmBusError}; anything else as it is. */
export function fromNative(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const parts = error.message.split(separator);
  if (parts.length !== 5) return error;
  const [code, message, syscall, errno, stamp] = parts as [ShmBusErrorCode, string, string, string, string];
  const details: ShmBusErrorDetails = {};
  if (syscall !== "") details.syscall = syscall;
  if (errno !== "") details.errno = Number(errno);
  if (stamp !== "") details.stamp = Number(stamp);
  const translated = new ShmBusError(code, message, details);
  Error.captureStackTrace?.(translated, fromNative);
  return translated;
}

/** Calls into the addon; what it throws is thrown as a {@link ShmBusError}. */
export function translated<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw fromNative(error);
  }
}

/** An error for an option that cannot be used. */
export function invalidOption(option: string, why: string): ShmBusError {
  return new ShmBusError("ERR_SHM_BUS_INVALID_OPTION", `${option}: ${why}`);
}
