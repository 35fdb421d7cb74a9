/** The recorder's process: reads every sample and checks it. */
import { serve } from "./role.ts";
import type { RecorderCalls } from "./protocol.ts";
import { SampleReader } from "./reader.ts";

let reader: SampleReader | undefined;

serve<RecorderCalls>(
  {
    async open({ bus }) {
      reader = await SampleReader.open(bus);
      reader.read(() => {});
    },
    async drain(lastStamp) {
      return reader!.drain(lastStamp);
    },
  },
  async () => reader?.close(),
);
