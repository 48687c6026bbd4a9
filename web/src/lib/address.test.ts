import { describe, expect, it } from "vitest";
import { only, parseSearch, stringifySearch } from "./address";

describe("the address", () => {
  it("gives back what was put in, whatever it is called", () => {
    for (const search of [
      { model: "fashion@1", label: "кот & пёс=1" },
      { label: "7" },
      { label: "true" },
      {},
    ])
      expect(parseSearch(stringifySearch(search))).toEqual(search);
  });

  it("leaves out what says nothing", () => {
    expect(stringifySearch({ model: undefined, label: "", image: null })).toBe("");
    expect(stringifySearch({ model: "pets@1" })).toBe("?model=pets@1");
  });

  it("takes only known keys", () => {
    expect(only({ model: "a", token: "secret", label: "" }, ["model", "label"])).toEqual({ model: "a" });
  });
});
