/**
 * The machine's counters, in groups. A sampler keeps the files it reads open and writes one
 * number a field to an array; what this machine does not have is left out, with a word why.
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import {
  DiskStatisticsParser,
  KeyedLinesParser,
  LoadAverageParser,
  NetworkDevicesParser,
  ProcfsFile,
  SchedulerStatisticsParser,
  diskNames,
} from "./procfs.ts";
import type { FieldDescription, FieldKind, ProcfsParser, WantedColumn, WantedLine } from "./procfs.ts";

/** Every group, in the order in which they are shown. */
export const groupNames = ["cpu", "scheduler", "memory", "paging", "network", "disk"] as const;

/** The name of a group of counters. */
export type GroupName = (typeof groupNames)[number];

/** Which groups each of the three publishers samples. */
export const publisherGroups: readonly {
  readonly publisher: string;
  readonly groups: readonly GroupName[];
}[] = [
  { publisher: "processors", groups: ["cpu", "scheduler"] },
  { publisher: "memory", groups: ["memory", "paging"] },
  { publisher: "devices", groups: ["network", "disk"] },
];

/** The fields of a group, plain data that can go to another process. */
export interface GroupDescription {
  readonly group: GroupName;
  readonly fields: readonly FieldDescription[];
}

/** Reads one group of counters. */
export interface Sampler {
  readonly group: GroupName;
  /** The names of the values, in their order. */
  readonly fields: readonly string[];
  /** Names, units and kinds of the values, in the same order. */
  readonly description: GroupDescription;
  /** The files it reads. */
  readonly sources: readonly string[];
  /** How often a file could not be read; its values then stay those of the read before. */
  readonly readFailures: number;
  /**
   * Writes the present values to the start of `target` and returns how many they are.
   * @throws RangeError if `target` is shorter than `fields`.
   */
  sample(target: Float64Array): number;
  /** Closes the files. */
  close(): void;
}

/** A file that this machine does not have, or not in a form that can be used. */
export interface SkippedSource {
  readonly group: GroupName;
  readonly path: string;
  /** One short sentence without a full stop. */
  readonly reason: string;
}

/** What `openSamplers` reads and from where. */
export interface SamplerOptions {
  /** The groups to open; all of them unless told. */
  readonly groups?: readonly GroupName[];
  /** Where procfs is mounted; `/proc` unless told. */
  readonly procRoot?: string;
  /** Where sysfs is mounted (it tells disks from partitions); `/sys` unless told. */
  readonly sysRoot?: string;
}

/** What `openSamplers` found. */
export interface OpenedSamplers {
  /** One for each group with at least one source on this machine. */
  readonly samplers: readonly Sampler[];
  readonly skipped: readonly SkippedSource[];
}

interface SourceDefinition {
  readonly path: string;
  readonly wholeInOneRead: boolean;
  /** Makes the parser from a first text, or says why there is none. */
  prepare(bytes: Uint8Array, length: number, sysRoot: string): ProcfsParser | string;
}

function column(
  name: string,
  unit: string,
  kind: FieldKind,
  columns: readonly number[] = [0],
  scale = 1,
): WantedColumn {
  return { name, unit, kind, columns, scale };
}

function keyed(
  path: string,
  wholeInOneRead: boolean,
  wanted: readonly WantedLine[],
  afterEquals = false,
): SourceDefinition {
  return {
    path,
    wholeInOneRead,
    prepare(bytes, length) {
      const parser = new KeyedLinesParser(bytes, length, wanted, afterEquals);
      return parser.fields.length > 0 ? parser : "it has none of the expected lines";
    },
  };
}

/** More processors than this are counted in the sum only. */
const shownProcessors = 32;

function processorLines(): WantedLine[] {
  const names = [
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "irq",
    "softirq",
    "steal",
    "guest",
    "guest_nice",
  ];
  const lines: WantedLine[] = [
    { key: "cpu", wanted: names.map((name, index) => column(name, "ticks", "counter", [index])) },
  ];
  for (let processor = 0; processor < shownProcessors; processor += 1) {
    lines.push({
      key: `cpu${processor}`,
      // user, nice, system, irq, softirq and steal
      wanted: [column(`cpu${processor}.busy`, "ticks", "counter", [0, 1, 2, 5, 6, 7])],
    });
  }
  lines.push(
    { key: "intr", wanted: [column("interrupts", "interrupts", "counter")] },
    { key: "softirq", wanted: [column("soft_interrupts", "interrupts", "counter")] },
  );
  return lines;
}

function pressure(resource: "cpu" | "memory" | "io"): SourceDefinition {
  return keyed(
    `pressure/${resource}`,
    true,
    ["some", "full"].map((key) => ({
      key,
      wanted: [
        column(`pressure.${key}.10s`, "percent", "gauge", [0]),
        column(`pressure.${key}.total`, "microseconds", "counter", [3]),
      ],
    })),
    true,
  );
}

function meminfoLine(key: string, name: string): WantedLine {
  return { key, wanted: [column(name, "bytes", "gauge", [0], 1024)] };
}

function vmstatLine(key: string, name: string, unit: string, scale = 1): WantedLine {
  return { key, wanted: [column(name, unit, "counter", [0], scale)] };
}

/** Block devices that are no disk of their own. */
const notADisk = /^(?:loop|ram|zram|sr|fd|dm-|md|nbd)\d/;

const definitions: Readonly<Record<GroupName, readonly SourceDefinition[]>> = {
  cpu: [keyed("stat", true, processorLines()), pressure("cpu")],
  scheduler: [
    keyed("stat", true, [
      { key: "ctxt", wanted: [column("context_switches", "switches", "counter")] },
      { key: "processes", wanted: [column("forks", "processes", "counter")] },
      { key: "procs_running", wanted: [column("running", "threads", "gauge")] },
      { key: "procs_blocked", wanted: [column("blocked", "threads", "gauge")] },
    ]),
    { path: "loadavg", wholeInOneRead: true, prepare: () => new LoadAverageParser() },
    { path: "schedstat", wholeInOneRead: false, prepare: () => new SchedulerStatisticsParser() },
  ],
  memory: [
    keyed("meminfo", true, [
      meminfoLine("MemTotal", "total"),
      meminfoLine("MemFree", "free"),
      meminfoLine("MemAvailable", "available"),
      meminfoLine("Buffers", "buffers"),
      meminfoLine("Cached", "cached"),
      meminfoLine("SwapTotal", "swap.total"),
      meminfoLine("SwapFree", "swap.free"),
      meminfoLine("Dirty", "dirty"),
      meminfoLine("Writeback", "writeback"),
      meminfoLine("AnonPages", "anonymous"),
      meminfoLine("Mapped", "mapped"),
      meminfoLine("Shmem", "shared"),
      meminfoLine("Slab", "slab"),
      meminfoLine("Committed_AS", "committed"),
    ]),
    pressure("memory"),
  ],
  paging: [
    keyed("vmstat", false, [
      vmstatLine("pgpgin", "paged_in", "bytes", 1024),
      vmstatLine("pgpgout", "paged_out", "bytes", 1024),
      vmstatLine("pswpin", "swapped_in", "pages"),
      vmstatLine("pswpout", "swapped_out", "pages"),
      vmstatLine("pgfree", "freed", "pages"),
      vmstatLine("pgfault", "faults", "faults"),
      vmstatLine("pgmajfault", "major_faults", "faults"),
      vmstatLine("pgscan_kswapd", "scanned.kswapd", "pages"),
      vmstatLine("pgscan_direct", "scanned.direct", "pages"),
      vmstatLine("oom_kill", "oom_kills", "processes"),
    ]),
  ],
  network: [{ path: "net/dev", wholeInOneRead: false, prepare: () => new NetworkDevicesParser() }],
  disk: [
    {
      path: "diskstats",
      wholeInOneRead: false,
      prepare(bytes, length, sysRoot) {
        let whole: ReadonlySet<string> | undefined;
        try {
          whole = new Set(readdirSync(join(sysRoot, "block")));
        } catch {
          // Without sysfs partitions cannot be told from disks: both are counted.
        }
        const disks = diskNames(bytes, length).filter(
          (name) => !notADisk.test(name) && (whole === undefined || whole.has(name)),
        );
        return disks.length > 0 ? new DiskStatisticsParser(disks) : "it lists no disks";
      },
    },
    pressure("io"),
  ],
};

interface Source {
  readonly file: ProcfsFile;
  readonly parser: ProcfsParser;
  readonly offset: number;
}

class ProcfsSampler implements Sampler {
  readonly group: GroupName;
  readonly fields: readonly string[];
  readonly description: GroupDescription;
  readonly sources: readonly string[];
  readonly #sources: readonly Source[];
  #readFailures = 0;

  constructor(group: GroupName, sources: readonly Source[]) {
    const fields = sources.flatMap((source) => source.parser.fields);
    this.group = group;
    this.fields = fields.map((field) => field.name);
    this.description = { group, fields };
    this.sources = sources.map((source) => source.file.path);
    this.#sources = sources;
  }

  get readFailures(): number {
    return this.#readFailures;
  }

  sample(target: Float64Array): number {
    if (target.length < this.fields.length) {
      throw new RangeError(
        `A sample of ${this.group} has ${this.fields.length} values, the target ${target.length}.`,
      );
    }
    for (const { file, parser, offset } of this.#sources) {
      let length: number;
      try {
        length = file.read();
      } catch {
        this.#readFailures += 1;
        continue;
      }
      parser.parse(file.bytes, length, target, offset);
    }
    return this.fields.length;
  }

  close(): void {
    for (const source of this.#sources) source.file.close();
  }
}

function reasonOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  switch (code) {
    case "ENOENT":
      return "this kernel or container does not have it";
    case "EACCES":
    case "EPERM":
      return "it may not be read";
    case "EOPNOTSUPP":
    case "ENOTSUP":
      return "the kernel was started without it";
    default:
      return `it cannot be read (${typeof code === "string" ? code : String(error)})`;
  }
}

/** Opens the samplers of the groups; what this machine does not have is named in `skipped`. */
export function openSamplers(options: SamplerOptions = {}): OpenedSamplers {
  const { groups = groupNames, procRoot = "/proc", sysRoot = "/sys" } = options;
  const samplers: Sampler[] = [];
  const skipped: SkippedSource[] = [];
  for (const group of groups) {
    const sources: Source[] = [];
    let offset = 0;
    for (const definition of definitions[group]) {
      const path = join(procRoot, definition.path);
      let file: ProcfsFile | undefined;
      let reason: string;
      try {
        file = new ProcfsFile(path, definition.wholeInOneRead);
        const length = file.read();
        const parser = length > 0 ? definition.prepare(file.bytes, length, sysRoot) : "it is empty";
        if (typeof parser !== "string") {
          sources.push({ file, parser, offset });
          offset += parser.fields.length;
          continue;
        }
        reason = parser;
      } catch (error) {
        reason = reasonOf(error);
      }
      file?.close();
      skipped.push({ group, path, reason });
    }
    if (sources.length > 0) samplers.push(new ProcfsSampler(group, sources));
  }
  return { samplers, skipped };
}
