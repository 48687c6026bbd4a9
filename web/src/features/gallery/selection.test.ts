import { describe, expect, it } from "vitest";
import { everything, NOTHING, pruned, ranged, toggled } from "./selection";

const order = ["a", "b", "c", "d", "e"];
const ids = (selection: { ids: ReadonlySet<string> }) => [...selection.ids].sort().join("");

describe("selection", () => {
  it("toggles one", () => {
    const one = toggled(NOTHING, "b");
    expect(ids(one)).toBe("b");
    expect(ids(toggled(one, "b"))).toBe("");
  });

  it("takes a range either way, and a longer one from the same anchor", () => {
    const one = toggled(NOTHING, "c");
    expect(ids(ranged(one, "e", order))).toBe("cde");
    const back = ranged(one, "b", order);
    expect(ids(back)).toBe("bc");
    expect(ids(ranged(back, "a", order))).toBe("abc");
    expect(ids(ranged(NOTHING, "d", order))).toBe("d");
    expect(ids(ranged(toggled(NOTHING, "gone"), "d", order))).toBe("dgone");
  });

  it("forgets what is no longer shown", () => {
    const all = everything(order);
    expect(pruned(all, order)).toBe(all);
    const rest = pruned(all, ["b", "c"]);
    expect(ids(rest)).toBe("bc");
    expect(rest.anchor).toBeNull();
  });
});
