/** The live view's process: reads every sample and draws the latest. */
import { askToStop, serve } from "./role.ts";
import type { ViewCalls } from "./protocol.ts";
import { SampleReader } from "./reader.ts";
import { monotonicMicroseconds } from "./sample.ts";
import { TelemetryModel } from "./view-state.ts";
import { TelemetryView } from "./view.ts";

const redrawMilliseconds = 250;
const lineMilliseconds = 1_000;

let reader: SampleReader | undefined;
let finish: ((last: boolean) => void) | undefined;

/** Draws at once and then again and again. */
function startDrawing(state: () => Parameters<TelemetryView["draw"]>[0]): void {
  let open = true;
  const view = new TelemetryView(process.stdout);
  process.stdout.on("error", () => {
    if (!open) return;
    open = false;
    askToStop("SIGPIPE");
  });
  const draw = (): void => {
    if (open) view.draw(state());
  };
  const timer = setInterval(draw, view.inPlace ? redrawMilliseconds : lineMilliseconds);
  if (view.inPlace) process.stdout.on("resize", draw);
  finish = (last) => {
    finish = undefined;
    clearInterval(timer);
    if (last) draw();
    if (open) view.finish();
    open = false;
  };
  if (view.inPlace) draw();
}

serve<ViewCalls>(
  {
    async open({ bus }) {
      reader = await SampleReader.open(bus);
    },
    async show({ groups, skipped, silent }) {
      const { bus } = reader!;
      const model = new TelemetryModel(groups, monotonicMicroseconds());
      const notes = skipped.map(({ group, path, reason }) => `${group}: ${path} skipped, ${reason}`);
      reader!.read(({ group, stamp, sender, receivedAtMicroseconds, sample }) => {
        const { sequence, sentAtMicroseconds, values } = sample;
        model.observe({ group, stamp, sender, sequence, sentAtMicroseconds, receivedAtMicroseconds, values });
      });
      if (silent) return;
      startDrawing(() =>
        model.state(monotonicMicroseconds(), {
          processes: bus.peers().length,
          lag: reader!.lag,
          notes,
        }),
      );
    },
    async drain(lastStamp) {
      const end = await reader!.drain(lastStamp);
      finish?.(true);
      return end;
    },
  },
  async () => {
    finish?.(false);
    await reader?.close();
  },
);
