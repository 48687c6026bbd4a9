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

/** Newest first, as the service sorts them: by id, the number at its end as a number. */
export function order(a: GalleryImage, b: GalleryImage): number {
  if (a.generation !== b.generation) return a.generation < b.generation ? 1 : -1;
  return b.index - a.index;
}

/** Put images back where they were: each on the first page that reaches as far, or the last one. */
export function put(data: Pages, images: readonly GalleryImage[]): Pages {
  const pages = data.pages.map((page) => ({ ...page, items: [...page.items] }));
  const there = new Set(pages.flatMap((page) => page.items.map(({ id }) => id)));
  for (const image of images) {
    if (there.has(image.id)) continue;
    const home = pages.find(({ items }) => {
      const last = items.at(-1);
      return last !== undefined && order(image, last) < 0;
    });
    (home ?? pages.at(-1))?.items.push(image);
  }
  for (const page of pages) page.items.sort(order);
  return { ...data, pages };
}
