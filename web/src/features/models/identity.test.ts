import { describe, expect, it } from "vitest";
import { entries, ordered, split, told } from "./identity";

const metric = (identity: Record<string, unknown>) => ({ value: 1, interval: null, floor: null, identity });

describe("identity", () => {
  it("is told once where metrics share it", () => {
    const { shared, own } = split({
      fd: metric({ split: "val", n: 2000, metric: "FD-domain" }),
      coverage: metric({ split: "val", n: 2000, metric: "coverage k=5" }),
    });
    expect(told(shared)).toBe("split val · n 2,000");
    expect(told(own.coverage ?? [])).toBe("metric coverage k=5");
  });

  it("shortens hashes and reads lists", () => {
    expect(entries({ extractor_hash: "0123456789abcdef".repeat(4), seeds: [0, 1, 2] })).toEqual([
      ["extractor hash", "0123456789"],
      ["seeds", "0, 1, 2"],
    ]);
  });

  it("puts agreement before coverage before the rest", () => {
    const order = ordered({
      fd: metric({}),
      odd: metric({}),
      coverage: metric({}),
      class_agreement: metric({}),
    });
    expect(order.map(([name]) => name)).toEqual(["class_agreement", "coverage", "fd", "odd"]);
  });
});
