import { describe, expect, it } from "vitest";
import type { Job } from "@/client/client";
import type { JobEvent } from "../progress";
import { job, output } from "../testJob";
import { type Means, type Stream, watchGeneration } from "./watchGeneration";

/** A stream that a test speaks through. */
class Fake implements Stream {
  onerror: ((event: Event) => void) | null = null;
  closed = false;
  private listeners = new Map<string, (event: MessageEvent<string>) => void>();
  addEventListener(type: string, listener: (event: MessageEvent<string>) => void): void {
    this.listeners.set(type, listener);
  }
  close(): void {
    this.closed = true;
  }
  say(event: JobEvent): void {
    this.listeners.get(event.type)?.(new MessageEvent(event.type, { data: JSON.stringify(event) }));
  }
  fail(): void {
    this.onerror?.(new Event("error"));
  }
}

function watch(answers: (Job | Error)[] = []) {
  const stream = new Fake();
  const told: JobEvent[] = [];
  const pauses: number[] = [];
  const means: Means = {
    stream: () => stream,
    get: async () => {
      const answer = answers.shift() ?? new Error("no more answers");
      if (answer instanceof Error) throw answer;
      return answer;
    },
    wait: async (milliseconds) => {
      pauses.push(milliseconds);
    },
  };
  const stop = watchGeneration(job(), (event) => told.push(event), means);
  const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
  return { stream, told, pauses, stop, settle };
}

describe("watchGeneration", () => {
  it("tells what the stream says, and closes it at the end", () => {
    const { stream, told } = watch();
    stream.say({ type: "status", job: job({ status: "running" }) });
    stream.say({ type: "progress", progress: { value: 0.5, step: 6, steps: 12 } });
    stream.say({ type: "output", output: output(0) });
    expect(stream.closed).toBe(false);
    stream.say({ type: "status", job: job({ status: "succeeded" }) });
    expect(told.map(({ type }) => type)).toEqual(["status", "progress", "output", "status"]);
    expect(stream.closed).toBe(true);
  });

  it("leaves single failures to the browser, which reconnects", async () => {
    const { stream, told, settle } = watch();
    stream.fail();
    stream.fail();
    stream.say({ type: "progress", progress: { value: 0.5, step: 6, steps: 12 } });
    stream.fail();
    stream.fail();
    await settle();
    expect(stream.closed).toBe(false);
    expect(told).toHaveLength(1);
  });

  it("asks instead when the stream keeps failing, until the end", async () => {
    const { stream, told, pauses, settle } = watch([
      job({ status: "running" }),
      new Error("away"),
      new Error("away"),
      job({ status: "succeeded", outputs: [output(0)] }),
    ]);
    for (let i = 0; i < 3; i++) stream.fail();
    await settle();
    expect(stream.closed).toBe(true);
    expect(told.map((event) => (event.type === "status" ? event.job.status : event.type))).toEqual([
      "link",
      "running",
      "succeeded",
    ]);
    expect(pauses).toEqual([1000, 2000, 4000]);
  });

  it("is silent once stopped", async () => {
    const { stream, told, stop, settle } = watch([job({ status: "running" })]);
    stop();
    stream.say({ type: "status", job: job({ status: "running" }) });
    for (let i = 0; i < 3; i++) stream.fail();
    await settle();
    expect(told).toEqual([]);
    expect(stream.closed).toBe(true);
  });
});
