/** Measures by turns: floor, figures, floor, figures ..., so that a disturbance meets all of them alike. */
import type { Machine } from "./machine.ts";
import type { Settings } from "./options.ts";
import type { Context, Figure, Floor, Group, Sample } from "./plan.ts";

/** The median of the turns and their ends. */
export interface Range {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export interface FloorResult {
  readonly id: string;
  readonly title: string;
  readonly ns: Range;
}

export interface FigureResult {
  readonly id: string;
  readonly title: string;
  readonly language: Figure["language"];
  readonly kind: Figure["kind"];
  /** Messages of one publish, for a rate. */
  readonly batch?: number;
  /** Whether its processes shared the processors. */
  readonly crowded: boolean;
  /** The floor it stands on. */
  readonly floor: string;
  /** Nanoseconds of a round trip (its median), or of a message. */
  readonly ns: Range;
  /** Multiples of the floor of the same turn. */
  readonly multiple: Range;
  readonly ns99?: Range;
  readonly ns999?: Range;
  readonly messagesPerSecond?: Range;
  /** Processor time of all processes together. */
  readonly cpuMicrosPerMessage: Range;
  readonly lost: number;
}

export interface Report {
  readonly machine: Machine;
  readonly settings: Settings;
  readonly floors: readonly FloorResult[];
  readonly figures: readonly FigureResult[];
  readonly seconds: number;
}

export function rangeOf(values: readonly number[]): Range {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const median = ((sorted[Math.floor(middle)] as number) + (sorted[Math.ceil(middle)] as number)) / 2;
  return { median, min: sorted[0] as number, max: sorted.at(-1) as number };
}

function figureResult(figure: Figure, floor: Floor, samples: readonly Sample[], floors: readonly Sample[]) {
  const { id, title, language, kind, batch, crowded } = figure;
  const each = (of: (sample: Sample) => number | undefined) =>
    rangeOf(samples.map((sample) => of(sample) ?? Number.NaN));
  const result: FigureResult = {
    id,
    title,
    language,
    kind,
    crowded,
    floor: floor.id,
    ns: each((s) => s.ns),
    multiple: rangeOf(samples.map((sample, turn) => sample.ns / (floors[turn] as Sample).ns)),
    cpuMicrosPerMessage: each((s) => s.cpuMicrosPerMessage),
    lost: samples.reduce((sum, sample) => sum + sample.lost, 0),
  };
  if (kind === "latency") return { ...result, ns99: each((s) => s.ns99), ns999: each((s) => s.ns999) };
  return { ...result, ...(batch === undefined ? {} : { batch }), messagesPerSecond: each((s) => 1e9 / s.ns) };
}

/** Runs the plan as often as the settings say. `progress` hears what comes next. */
export async function measure(
  plan: readonly Group[],
  context: Context,
  machine: Machine,
  progress: (text: string) => void,
): Promise<Report> {
  const start = performance.now();
  const samples = new Map<Floor, Sample[]>();
  const { repeats } = context.settings;
  for (let turn = 1; turn <= repeats; turn++) {
    for (const { floor, figures } of plan) {
      for (const part of [floor, ...figures]) {
        progress(
          `turn ${turn} of ${repeats}: ${part.title}${"language" in part ? `, ${part.language}` : ""}`,
        );
        const taken = samples.get(part) ?? [];
        samples.set(part, taken);
        taken.push(await part.measure(context));
      }
    }
  }
  const of = (part: Floor) => samples.get(part) ?? [];
  return {
    machine,
    settings: context.settings,
    floors: plan.map(({ floor }) => ({
      id: floor.id,
      title: floor.title,
      ns: rangeOf(of(floor).map((s) => s.ns)),
    })),
    figures: plan.flatMap(({ floor, figures }) =>
      figures.map((figure) => figureResult(figure, floor, of(figure), of(floor))),
    ),
    seconds: (performance.now() - start) / 1000,
  };
}
