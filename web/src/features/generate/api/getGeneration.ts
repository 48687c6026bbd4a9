/** GET /v1/generations/{id}. */
import { call, client, type Job } from "@/client/client";

export function getGeneration(id: string): Promise<Job> {
  return call(client.GET("/v1/generations/{id}", { params: { path: { id } } }));
}
