/** A generation by its id: fetched, then watched until it ends. */
import { type QueryClient, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect } from "react";
import type { Job } from "@/client/client";
import { getGeneration } from "./api/getGeneration";
import { watchGeneration } from "./api/watchGeneration";
import { finished, reduce, type Watched, watched } from "./progress";

const keyOf = (id: string | undefined) => ["generation", id ?? null] as const;

/** Show a job that was just made, or answered, without fetching it. */
export function remember(client: QueryClient, job: Job): void {
  client.setQueryData<Watched>(keyOf(job.id), (old) =>
    old ? reduce(old, { type: "status", job }) : watched(job),
  );
}

export function useGeneration(id: string | undefined, onFinished: () => void) {
  const client = useQueryClient();
  const query = useQuery({
    queryKey: keyOf(id),
    queryFn: async () => watched(await getGeneration(id ?? "")),
    enabled: id !== undefined,
    staleTime: Number.POSITIVE_INFINITY,
  });
  const job = query.data?.job;
  const events = job && !finished(job) ? job.urls.events : null;
  useEffect(() => {
    if (id === undefined || events === null) return;
    const urls = { events } as Job["urls"];
    return watchGeneration(
      { urls },
      (event) => {
        client.setQueryData<Watched>(keyOf(id), (old) => old && reduce(old, event));
        if (event.type === "status" && finished(event.job)) onFinished();
      },
      () => void client.resetQueries({ queryKey: keyOf(id) }), // asks, and so tells what is wrong
    );
  }, [id, events, client, onFinished]);
  return query;
}
