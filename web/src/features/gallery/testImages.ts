/** Images as the service lists them, for tests. */
import type { GalleryImage } from "./api/listImages";

export function image(generation: string, index: number): GalleryImage {
  return {
    id: `${generation}-${index}`,
    generation,
    index,
    model: "pets@1",
    label: "cat",
    seed: index,
    width: 8,
    height: 8,
    format: "png",
    hash: "0".repeat(64),
    size: 100,
    favourite: false,
    created_at: "2026-11-23T12:00:00Z",
    trashed_at: null,
    url: `/v1/images/${generation}-${index}`,
  };
}
