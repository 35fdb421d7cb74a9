import { Bus, codecs } from "shm-bus";

// Two attachments to one bus: here in one process, as well in two processes or worker threads.
const name = `hello-${process.pid}`;
const alice = await Bus.attach(name, { codec: codecs.json });
const bob = await Bus.attach(name, { codec: codecs.json });

// Whoever subscribes to a group gets all that is published to it from then on.
const greetings = await bob.subscribe("greetings");

for (const text of ["Hello", "from", "shared", "memory"]) alice.publish("greetings", { text });

for await (const message of greetings) {
  // The stamp is the message's place in the one order of the bus.
  const { text } = message.value as { text: string };
  console.log(`${message.stamp}: ${message.sender} says ${text}`);
  if (text === "memory") break;
}

await Promise.all([alice.close(), bob.close()]);
