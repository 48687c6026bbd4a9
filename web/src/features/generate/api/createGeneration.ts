/** POST /v1/generations: ask for images; the job comes back at once, the images later. */
import { call, client, type Job } from "@/client/client";

export interface Wish {
  model: string;
  labels: string[]; // none: every class in turn
  n: number;
  seed: number;
  controls: Record<string, unknown>;
}

type Body = NonNullable<Parameters<typeof client.POST<"/v1/generations", never>>[1]>;

export function createGeneration(wish: Wish): Promise<Job> {
  const { labels, ...rest } = wish;
  const body = { task: "generate" as const, ...rest, ...(labels.length > 0 && { labels }) };
  return call(client.POST("/v1/generations", { body } as Body)) as Promise<Job>;
}
