/** A job as it is watched: events of the stream, in whatever order and however often they come, into what to show. */
import type { Job, OutputImage } from "@/client/client";

export type Link =
  | "live"
  | "away" // the connection broke off; it is being made again
  | "back"; // it broke off, and is there again

export type JobEvent =
  | { type: "status"; job: Job }
  | { type: "progress"; progress: Job["progress"] }
  | { type: "preview"; images: { index: number; url: string }[] }
  | { type: "output"; output: OutputImage }
  | { type: "link"; up: boolean };

/** When progress was first seen, and how much there was then: what the pace is measured from. */
interface Mark {
  at: number; // ms
  value: number;
}

export interface Watched {
  job: Job;
  previews: Readonly<Record<number, string>>; // by index: the last one of each picture
  link: Link;
  mark: Mark | null;
  seen: number; // ms: when the newest progress came
}

export const watched = (job: Job): Watched => ({ job, previews: {}, link: "live", mark: null, seen: 0 });

export function finished(job: Pick<Job, "status">): boolean {
  return ["succeeded", "failed", "canceled", "expired"].includes(job.status);
}

function merged(old: OutputImage[], more: OutputImage[]): OutputImage[] {
  const byIndex = new Map([...old, ...more].map((output) => [output.index, output]));
  return [...byIndex.values()].sort((a, b) => a.index - b.index);
}

function onStatus(state: Watched, news: Job): Watched {
  const { job } = state;
  if (finished(job) && !finished(news)) return state; // an old snapshot
  if (job.status === "canceling" && (news.status === "queued" || news.status === "running")) return state;
  const ahead = news.progress.value >= job.progress.value || finished(news);
  return {
    ...state,
    job: {
      ...news,
      outputs: merged(job.outputs, news.outputs),
      progress: ahead ? news.progress : job.progress,
    },
    mark: news.status === "queued" ? null : state.mark,
  };
}

export function reduce(state: Watched, event: JobEvent, now = Date.now()): Watched {
  const { job } = state;
  switch (event.type) {
    case "status":
      return onStatus(state, event.job);
    case "progress": {
      const { progress } = event;
      if (finished(job) || progress.value < job.progress.value) return state;
      const mark = state.mark ?? { at: now, value: progress.value };
      return { ...state, job: { ...job, progress }, mark, seen: now };
    }
    case "preview": {
      if (finished(job)) return state;
      const done = new Set(job.outputs.map(({ index }) => index));
      const fresh = event.images
        .filter(({ index }) => !done.has(index))
        .map(({ index, url }) => [index, url]);
      return { ...state, previews: { ...state.previews, ...Object.fromEntries(fresh) } };
    }
    case "output":
      return { ...state, job: { ...job, outputs: merged(job.outputs, [event.output]) } };
    case "link":
      if (!event.up) return { ...state, link: "away", mark: null };
      return { ...state, link: state.link === "away" ? "back" : state.link };
  }
}

const LEAST_SHARE = 0.02;
const LEAST_MS = 1500;

/** Milliseconds to the end at the pace so far; null while that cannot be told. */
export function timeLeft({ job, mark, seen }: Watched): number | null {
  if (job.status !== "running" || mark === null) return null;
  const share = job.progress.value - mark.value;
  const passed = seen - mark.at;
  if (share < LEAST_SHARE || passed < LEAST_MS) return null;
  return ((1 - job.progress.value) * passed) / share;
}
