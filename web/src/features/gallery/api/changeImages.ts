/** PATCH /v1/images: the same to several images; the service takes 500 at a time. */
import { call, client } from "@/client/client";
import type { components } from "@/client/schema";

export type Change = components["schemas"]["ImagesChange"]["change"];

export const MOST_IDS = 500;

export async function changeImages(ids: readonly string[], change: Change): Promise<number> {
  let changed = 0;
  for (let at = 0; at < ids.length; at += MOST_IDS) {
    const body = { ids: ids.slice(at, at + MOST_IDS), change };
    changed += (await call(client.PATCH("/v1/images", { body }))).changed;
  }
  return changed;
}
