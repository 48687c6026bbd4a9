import { describe, expect, it } from "vitest";
import { changed, type Pages, put, without } from "./pages";
import { image } from "./testImages";

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

  it("leave to a page to come what is beyond the last one", () => {
    const first: Pages = { pages: data.pages.slice(0, 1), pageParams: [null] };
    const short = without(first, new Set(["gen_b-9"]));
    expect(ids(put(short, all))).toEqual([["gen_b-10", "gen_b-9"]]);
    expect(ids(put(without(first, new Set(["gen_b-10", "gen_b-9"])), all))).toEqual([
      ["gen_b-10", "gen_b-9"],
    ]);
  });

  it("change some and leave the others as they are", () => {
    const next = changed(data, new Set(["gen_a-3"]), { favourite: true });
    expect(next.pages[1]?.items.map(({ favourite }) => favourite)).toEqual([false, true, false]);
    expect(next.pages[0]?.items[0]).toBe(all[0]);
  });
});
