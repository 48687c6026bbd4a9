/** GET /v1/images/{id}/about: what is known of one image. */
import { call, client } from "@/client/client";
import type { GalleryImage } from "./listImages";

export const IMAGE_KEY = ["image"] as const;
export const imageKey = (id: string) => [...IMAGE_KEY, id] as const;

export function getImage(id: string): Promise<GalleryImage> {
  return call(client.GET("/v1/images/{id}/about", { params: { path: { id } } }));
}
