/** A job as the service sends it, for tests. */
import type { Job, OutputImage } from "@/client/client";

export function output(index: number): OutputImage {
  return {
    id: `g-${index}`,
    index,
    label: "Bag",
    seed: 7 + index,
    url: `/v1/images/g-${index}`,
    width: 28,
    height: 28,
    hash: "0".repeat(64),
  };
}

export function job(changes: Partial<Job> = {}): Job {
  return {
    id: "g",
    kind: "generation",
    status: "queued",
    created_at: "2026-11-23T12:00:00Z",
    started_at: null,
    completed_at: null,
    queue_position: 1,
    progress: { value: 0, step: 0, steps: 0 },
    request: {
      model: "fashion@1",
      task: "generate",
      labels: ["Bag"],
      n: 2,
      seed: 7,
      controls: { steps: 12 },
      format: "png",
    },
    outputs: [],
    error: null,
    metrics: { queue_ms: null, execution_ms: null },
    urls: {
      self: "/v1/generations/g",
      events: "/v1/generations/g/events",
      cancel: "/v1/generations/g/cancel",
      zip: "/v1/generations/g/images.zip",
    },
    ...changes,
  };
}
