/** POST /v1/generations: ask for images; the job comes back at once, the images later. */
import { call, client, type Job } from "@/client/client";

export interface Wish {
  model: string;
  task: string;
  labels: string[]; // none: every class in turn
  n: number;
  seed: number;
  controls: Record<string, unknown>;
  image?: string[] | null | undefined;
  to_image?: string[] | null | undefined;
  mask?: string[] | null | undefined;
}

type Body = NonNullable<Parameters<typeof client.POST<"/v1/generations", never>>[1]>;

export function createGeneration(wish: Wish): Promise<Job> {
  const { labels, image, to_image, mask, ...rest } = wish;
  const body = {
    ...rest,
    ...(labels.length > 0 && { labels }),
    ...(image && { image }),
    ...(to_image && { to_image }),
    ...(mask && { mask }),
  };
  return call(client.POST("/v1/generations", { body } as Body)) as Promise<Job>;
}

/** The wish that a job was made from. */
export function wishFrom(request: Job["request"]): Wish {
  const { model, task, labels, n, seed, controls, image, to_image, mask } = request;
  return { model, task, labels, n, seed, controls, image, to_image, mask };
}

/** What to show while the answer is on its way: a job that waits. */
export function expectedJob(wish: Wish): Job {
  return {
    id: "",
    kind: "generation",
    status: "queued",
    created_at: "",
    started_at: null,
    completed_at: null,
    queue_position: null,
    progress: { value: 0, step: 0, steps: 0 },
    request: {
      ...wish,
      controls: wish.controls as Job["request"]["controls"],
      format: "png",
    } as Job["request"],
    outputs: [],
    error: null,
    metrics: { queue_ms: null, execution_ms: null },
    urls: { self: "", events: "", cancel: "", zip: "" },
  };
}
