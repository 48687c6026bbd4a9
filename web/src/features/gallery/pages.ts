/** The gallery's loaded pages, changed in place of asking for all of them again. Ids fall from page to page. */
import type { InfiniteData } from "@tanstack/react-query";
import type { GalleryImage, GalleryPage } from "./api/listImages";

export type Pages = InfiniteData<GalleryPage, string | null>;

const mapped = (data: Pages, change: (items: GalleryImage[]) => GalleryImage[]): Pages => ({
  ...data,
  pages: data.pages.map((page) => ({ ...page, items: change(page.items) })),
});

export function without(data: Pages, ids: ReadonlySet<string>): Pages {
  return mapped(data, (items) => items.filter(({ id }) => !ids.has(id)));
}

export function changed(data: Pages, ids: ReadonlySet<string>, change: Partial<GalleryImage>): Pages {
  return mapped(data, (items) => items.map((item) => (ids.has(item.id) ? { ...item, ...change } : item)));
}

type Place = Pick<GalleryImage, "generation" | "index">;

/** Newest first, as the service sorts them: by id, the number at its end as a number. */
export function order(a: Place, b: Place): number {
  if (a.generation !== b.generation) return a.generation < b.generation ? 1 : -1;
  return b.index - a.index;
}

/** Put images back where they were: each on the first page that reaches as far. A page to come brings its own. */
export function put(data: Pages, images: readonly GalleryImage[]): Pages {
  const pages = data.pages.map((page) => ({ ...page, items: [...page.items] }));
  const there = new Set(pages.flatMap((page) => page.items.map(({ id }) => id)));
  for (const image of images) {
    if (there.has(image.id)) continue;
    const home = pages.find(({ items }) => {
      const last = items.at(-1);
      return last !== undefined && order(image, last) < 0;
    });
    const end = home ?? pages.at(-1);
    if (home || !isBeyond(image, end?.next_cursor)) end?.items.push(image);
  }
  for (const page of pages) page.items.sort(order);
  return { ...data, pages };
}

/** Whether an image comes after those of a page: its cursor is the id of its last one. */
function isBeyond(image: GalleryImage, cursor: string | null | undefined): boolean {
  const [, generation, index] = /^(.*)-(\d+)$/.exec(cursor ?? "") ?? [];
  return generation !== undefined && order(image, { generation, index: Number(index) }) > 0;
}
