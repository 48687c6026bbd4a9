import { describe, expect, it } from "vitest";
import type { JobEvent } from "../progress";
import { job, output } from "../testJob";
import { type Means, watchGeneration } from "./watchGeneration";

type Said = { id: string; event: JobEvent | { type: "reconnect" } };

const status = (id: number, name: "queued" | "running" | "succeeded"): Said => ({
  id: String(id),
  event: { type: "status", job: job({ status: name }) },
});
const made = (id: number, index: number): Said => ({
  id: String(id),
  event: { type: "output", output: output(index) },
});

/** One connection: what it says; then it ends, or breaks in the middle of an event, once `heard` says that it may. */
function stream(said: Said[], heard?: () => boolean): Response {
  const text = said.map(
    ({ id, event }) => `event: ${event.type}\nid: ${id}\ndata: ${JSON.stringify(event)}\n\n`,
  );
  const bytes = new TextEncoder().encode(`: ping\n\n${text.join("")}${heard ? 'data: {"type": "out' : ""}`);
  const half = Math.floor(bytes.length / 2);
  const chunks = [bytes.slice(0, half), bytes.slice(half)]; // a chunk ends anywhere
  const body = new ReadableStream({
    async pull(controller) {
      const chunk = chunks.shift();
      if (chunk) return controller.enqueue(chunk);
      if (heard === undefined) return controller.close();
      while (!heard()) await new Promise((resolve) => setTimeout(resolve, 1));
      controller.error(new TypeError("network error"));
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}

/** Watch a service that gives these answers to one connection after another. */
function watch(answers: (Response | Error)[]) {
  const told: JobEvent[] = [];
  const asked: (string | null)[] = [];
  const pauses: number[] = [];
  let gone: number | null = null;
  const means: Means = {
    open: async (_url, last) => {
      asked.push(last);
      const answer = answers.shift();
      if (answer === undefined) return new Promise(() => undefined);
      if (answer instanceof Error) throw answer;
      return answer;
    },
    wait: async (milliseconds) => {
      pauses.push(milliseconds);
    },
  };
  const stop = watchGeneration(
    job(),
    (event) => told.push(event),
    (code) => {
      gone = code;
    },
    means,
  );
  const settle = () => new Promise((resolve) => setTimeout(resolve, 150));
  const kinds = () => told.filter((event) => event.type !== "link" || !event.up).map(({ type }) => type);
  return { told, kinds, asked, pauses, stop, settle, gone: () => gone };
}

describe("watchGeneration", () => {
  it("tells what the stream says, to the end", async () => {
    const seen = watch([stream([status(1, "running"), made(2, 0), made(3, 1), status(4, "succeeded")])]);
    await seen.settle();
    expect(seen.kinds()).toEqual(["status", "output", "output", "status"]);
    expect(seen.asked).toEqual([null]);
  });

  it("goes on after the last event when the connection tears, and says so", async () => {
    const seen: ReturnType<typeof watch> = watch([
      stream([status(1, "running"), made(2, 0)], () => seen.kinds().includes("output")),
      new TypeError("refused"),
      new TypeError("refused"),
      new Response(null, { status: 503 }),
      stream([made(1_000_003, 1), status(1_000_004, "succeeded")]),
    ]);
    await seen.settle();
    expect(seen.asked).toEqual([null, "2", "2", "2", "2"]);
    expect(seen.kinds()).toEqual(["status", "output", "link", "link", "link", "link", "output", "status"]);
    expect(seen.told.at(-2)).toMatchObject({ type: "output", output: { index: 1 } });
    expect(seen.pauses).toEqual([250, 500, 1000, 2000]);
  });

  it("comes again when the service says that it stops, or just closes", async () => {
    const goodbye: Said = { id: "2", event: { type: "reconnect" } };
    const seen = watch([
      stream([status(1, "running"), goodbye]),
      stream([status(5, "running")]),
      stream([status(6, "succeeded")]),
    ]);
    await seen.settle();
    expect(seen.asked).toEqual([null, "2", "5"]);
    expect(seen.kinds()).toEqual(["status", "link", "status", "link", "status"]);
  });

  it("gives up where coming again is pointless", async () => {
    for (const code of [401, 404]) {
      const seen = watch([stream([status(1, "running")]), new Response(null, { status: code })]);
      await seen.settle();
      expect(seen.gone()).toBe(code);
      expect(seen.asked).toHaveLength(2);
    }
  });

  it("is silent once stopped", async () => {
    const seen = watch([stream([status(1, "running")])]);
    seen.stop();
    await seen.settle();
    expect(seen.told).toEqual([]);
    expect(seen.asked).toHaveLength(1);
  });
});
