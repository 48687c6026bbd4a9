/** GET /v1/images: stored images, newest first, a page at a time. */
import { call, client } from "@/client/client";
import type { components } from "@/client/schema";
import type { Query } from "../filters";

export type GalleryImage = components["schemas"]["GalleryImage"];
export type GalleryPage = components["schemas"]["GalleryPage"];

const PAGE = 100;

export function listImages(query: Query, cursor: string | null): Promise<GalleryPage> {
  return call(
    client.GET("/v1/images", {
      params: { query: { ...query, limit: PAGE, ...(cursor !== null && { cursor }) } },
    }),
  );
}

export const IMAGES_KEY = ["images"] as const;
