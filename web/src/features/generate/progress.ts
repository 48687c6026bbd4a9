/** A job as it is watched: events of the stream, in whatever order and however often they come, into what to show. */
import type { Job, OutputImage } from "@/client/client";

export type JobEvent =
  | { type: "status"; job: Job }
  | { type: "progress"; progress: Job["progress"] }
  | { type: "preview"; images: { index: number; url: string }[] }
  | { type: "output"; output: OutputImage }
  | { type: "link"; live: boolean };

export interface Watched {
  job: Job;
  previews: Readonly<Record<number, string>>; // by index, of images that are not finished
  live: boolean; // false: asking instead of being told
}

export const watched = (job: Job): Watched => ({ job, previews: {}, live: true });

export function finished(job: Pick<Job, "status">): boolean {
  return job.status === "succeeded" || job.status === "failed" || job.status === "canceled";
}

function merged(old: OutputImage[], more: OutputImage[]): OutputImage[] {
  const byIndex = new Map([...old, ...more].map((output) => [output.index, output]));
  return [...byIndex.values()].sort((a, b) => a.index - b.index);
}

export function reduce(state: Watched, event: JobEvent): Watched {
  const { job } = state;
  switch (event.type) {
    case "status": {
      if (finished(job) && !finished(event.job)) return state; // an old snapshot
      const outputs = merged(job.outputs, event.job.outputs);
      const progress =
        event.job.progress.value >= job.progress.value || finished(event.job)
          ? event.job.progress
          : job.progress;
      return {
        ...state,
        job: { ...event.job, outputs, progress },
        previews: finished(event.job) ? {} : state.previews,
      };
    }
    case "progress":
      if (finished(job) || event.progress.value < job.progress.value) return state;
      return { ...state, job: { ...job, progress: event.progress } };
    case "preview": {
      if (finished(job)) return state;
      const done = new Set(job.outputs.map(({ index }) => index));
      const fresh = event.images
        .filter(({ index }) => !done.has(index))
        .map(({ index, url }) => [index, url]);
      return { ...state, previews: { ...state.previews, ...Object.fromEntries(fresh) } };
    }
    case "output": {
      const { [event.output.index]: _shown, ...previews } = state.previews;
      return { ...state, job: { ...job, outputs: merged(job.outputs, [event.output]) }, previews };
    }
    case "link":
      return { ...state, live: event.live };
  }
}
