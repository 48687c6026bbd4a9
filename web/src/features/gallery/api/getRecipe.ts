/** GET /v1/generations/{id}: the job that made an image, and so its recipe. */
import { call, client, type Job } from "@/client/client";

export function getRecipe(generation: string): Promise<Job> {
  return call(client.GET("/v1/generations/{id}", { params: { path: { id: generation } } }));
}
