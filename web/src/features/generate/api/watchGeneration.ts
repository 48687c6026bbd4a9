/** GET /v1/generations/{id}/events: a job live over SSE. A stream that breaks off goes on after the last event that came. */
import { EventSourceParserStream } from "eventsource-parser/stream";
import type { Job } from "@/client/client";
import { finished, type JobEvent } from "../progress";

export interface Means {
  open: (url: string, last: string | null, signal: AbortSignal) => Promise<Response>;
  wait: (milliseconds: number, signal: AbortSignal) => Promise<void>;
}

const browser: Means = {
  open: (url, last, signal) =>
    fetch(url, {
      cache: "no-store",
      credentials: "same-origin",
      headers: { Accept: "text/event-stream", ...(last !== null && { "Last-Event-ID": last }) },
      signal,
    }),
  wait: (milliseconds, signal) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve();
      });
    }),
};

const SILENCE = 45_000; // ms without a byte: the service sends a comment every 15 s, so the connection is dead
const LONGEST_PAUSE = 4000; // ms

/** Whether asking again is pointless: the job is gone, or the session is. */
const isFinal = (status: number) => status >= 400 && status < 500 && status !== 429;

/**
 * Tell `emit` of the job until it ends, however often the service goes away meanwhile; `lost` when the service does
 * not know it any more (404) or does not let us in (401). Returns how to stop; after that nothing is told.
 */
export function watchGeneration(
  job: Pick<Job, "urls">,
  emit: (event: JobEvent) => void,
  lost: (status: number) => void,
  means: Means = browser,
): () => void {
  const leave = new AbortController();
  void follow(job.urls.events, emit, lost, means, leave.signal);
  return () => leave.abort();
}

async function follow(
  url: string,
  emit: (event: JobEvent) => void,
  lost: (status: number) => void,
  means: Means,
  left: AbortSignal,
): Promise<void> {
  let last: string | null = null;
  let broken = false;
  for (let failures = 0; !left.aborted; failures++) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    left.addEventListener("abort", stop);
    let silence: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE);
    };
    try {
      heard();
      const response = await means.open(url, last, attempt.signal);
      if (left.aborted) return;
      if (isFinal(response.status)) return lost(response.status);
      if (!response.ok || response.body === null) throw new Error(`status ${response.status}`);
      for await (const { id, data } of messages(response.body, heard)) {
        if (left.aborted) return;
        failures = 0;
        if (id) last = id;
        const event = JSON.parse(data) as JobEvent | { type: "reconnect" };
        if (event.type === "reconnect") break; // the service stops on purpose
        if (broken) emit({ type: "link", up: true });
        broken = false;
        emit(event);
        if (event.type === "status" && finished(event.job)) return;
      }
    } catch {
      // Refused, broken off or silent: all the same, we come again.
    } finally {
      clearTimeout(silence);
      left.removeEventListener("abort", stop);
      attempt.abort();
    }
    if (left.aborted) return;
    broken = true;
    emit({ type: "link", up: false });
    await means.wait(Math.min(LONGEST_PAUSE, 250 * 2 ** failures), left);
  }
}

async function* messages(body: ReadableStream<Uint8Array<ArrayBuffer>>, heard: () => void) {
  const bytes = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(chunk, controller) {
      heard();
      controller.enqueue(chunk);
    },
  });
  const reader = body
    .pipeThrough(bytes)
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream())
    .getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } finally {
    void reader.cancel().catch(() => undefined); // it has failed already
  }
}
