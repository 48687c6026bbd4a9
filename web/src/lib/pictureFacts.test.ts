import { describe, expect, it } from "vitest";
import { controlFacts } from "./pictureFacts";

describe("a recipe's controls", () => {
  it("are told in words; what the model was left to choose is not told", () => {
    const controls = { steps: 8, noise: true, cutoff: null, guidance: 1.5, edge: "soft" };
    expect(controlFacts(controls, [], "en")).toEqual([
      ["steps", "8"],
      ["noise", "yes"],
      ["guidance", "1.5"],
      ["edge", "soft"],
    ]);
  });
});
