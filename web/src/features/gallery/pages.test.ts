import { describe, expect, it } from "vitest";
import type { GalleryImage } from "./api/listImages";
import { changed, type Pages, put, without } from "./pages";

function image(generation: string, index: number): GalleryImage {
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

const all = [image("gen_b", 10), image("gen_b", 9), image("gen_b", 1), image("gen_a", 3), image("gen_a", 0)];
const data: Pages = {
  pages: [
    { items: all.slice(0, 2), next_cursor: "gen_b-9" },
    { items: all.slice(2), next_cursor: null },
  ],
  pageParams: [null, "gen_b-9"],
};
const ids = (pages: Pages) => pages.pages.map(({ items }) => items.map(({ id }) => id));

describe("pages", () => {
  it("lose images and get them back in their places", () => {
    for (const some of [[0], [1, 2], [4], [0, 1, 2, 3, 4]]) {
      const gone = some.flatMap((at) => all[at] ?? []);
      const rest = without(data, new Set(gone.map(({ id }) => id)));
      expect(ids(rest).flat()).toHaveLength(all.length - gone.length);
      expect(ids(put(rest, gone)).flat()).toEqual(ids(data).flat());
    }
  });

  it("do not hold an image twice", () => {
    expect(ids(put(data, all.slice(1, 3)))).toEqual(ids(data));
  });

  it("change some and leave the others as they are", () => {
    const next = changed(data, new Set(["gen_a-3"]), { favourite: true });
    expect(next.pages[1]?.items.map(({ favourite }) => favourite)).toEqual([false, true, false]);
    expect(next.pages[0]?.items[0]).toBe(all[0]);
  });
});
