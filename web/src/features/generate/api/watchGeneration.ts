/** GET /v1/generations/{id}/events: a job live over SSE; where no stream comes through, by asking every second. */
import type { Job } from "@/client/client";
import { finished, type JobEvent } from "../progress";
import { getGeneration } from "./getGeneration";

/** What is used of an EventSource. */
export interface Stream {
  addEventListener(type: string, listener: (event: MessageEvent<string>) => void): void;
  close(): void;
  onerror: ((event: Event) => void) | null;
}

export interface Means {
  stream: (url: string) => Stream;
  get: (id: string) => Promise<Job>;
  wait: (milliseconds: number) => Promise<void>;
}

const browser: Means = {
  stream: (url) => new EventSource(url),
  get: getGeneration,
  wait: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
};

const KINDS = ["status", "progress", "preview", "output"] as const;
const PATIENCE = 3; // failures in a row before the stream is given up; EventSource itself reconnects in between

/** Tell `emit` of the job until it ends. Returns how to stop; after that nothing is told. */
export function watchGeneration(
  job: Pick<Job, "id" | "urls">,
  emit: (event: JobEvent) => void,
  means: Means = browser,
): () => void {
  let stopped = false;
  let failures = 0;

  const stream = means.stream(job.urls.events);
  const stop = () => {
    stopped = true;
    stream.close();
  };

  const poll = async () => {
    stream.close();
    emit({ type: "link", live: false });
    for (let pause = 1000; !stopped; ) {
      try {
        const found = await means.get(job.id);
        if (stopped) return;
        emit({ type: "status", job: found });
        if (finished(found)) return;
        pause = 1000;
      } catch {
        pause = Math.min(8000, pause * 2); // the service is away: ask less often, and go on
      }
      await means.wait(pause);
    }
  };

  for (const kind of KINDS)
    stream.addEventListener(kind, ({ data }) => {
      if (stopped) return;
      failures = 0;
      const event = JSON.parse(data) as JobEvent;
      emit(event);
      if (event.type === "status" && finished(event.job)) stop();
    });
  stream.onerror = () => {
    failures += 1;
    if (!stopped && failures === PATIENCE) void poll();
  };
  return stop;
}
