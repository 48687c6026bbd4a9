import { describe, expect, it } from "vitest";
import { filtersSet, queryOf, zipUrl } from "./filters";

describe("queryOf", () => {
  it("asks for whole days of this calendar, the last one included", () => {
    const { since, until } = queryOf({ since: "2026-11-01", until: "2026-11-30" });
    expect(since).toBe(new Date(2026, 10, 1).toISOString());
    expect(until).toBe(new Date(2026, 11, 1).toISOString());
  });

  it("makes views of favourites and trash, and everything of what it does not know", () => {
    expect(queryOf({ view: "favourites" })).toEqual({ favourite: true });
    expect(queryOf({ view: "trash", label: "кот" })).toEqual({ trash: true, label: "кот" });
    expect(queryOf({ view: "attic", since: "yesterday", until: "2026-1-1" })).toEqual({});
  });
});

describe("zipUrl", () => {
  it("names the filters, and each image", () => {
    expect(zipUrl({})).toBe("/v1/images.zip");
    expect(zipUrl({ view: "favourites", model: "pets@1" }, ["a-0", "b-1"])).toBe(
      "/v1/images.zip?model=pets%401&favourite=true&id=a-0&id=b-1",
    );
  });
});

it("counts what can be cleared", () => {
  expect(filtersSet({ view: "trash" })).toBe(0);
  expect(filtersSet({ model: "a", since: "2026-01-01" })).toBe(2);
});
