/** POST /v1/generations/{id}/cancel: takes effect within one step. */
import { call, client, type Job } from "@/client/client";

export function cancelGeneration(id: string): Promise<Job> {
  return call(client.POST("/v1/generations/{id}/cancel", { params: { path: { id } } }));
}
