import { describe, expect, it } from "vitest";
import { drawSeed, forGeneration, SEED_MAX, typed } from "./seed";

describe("seed", () => {
  it("keeps a locked seed and draws a new one otherwise", () => {
    expect(forGeneration({ seed: 7, locked: true }, () => 99)).toEqual({ seed: 7, locked: true });
    expect(forGeneration({ seed: 7, locked: false }, () => 99)).toEqual({ seed: 99, locked: false });
  });

  it("locks what a person types", () => {
    expect(typed({ seed: 7, locked: false }, "42")).toEqual({ seed: 42, locked: true });
    expect(typed({ seed: 7, locked: false }, 42.9)).toEqual({ seed: 42, locked: true });
  });

  it("leaves the seed as it is for what is not a number", () => {
    for (const text of ["", "  ", "abc", "1e999"])
      expect(typed({ seed: 7, locked: false }, text)).toEqual({ seed: 7, locked: false });
  });

  it("stays within what the service takes", () => {
    expect(typed({ seed: 7, locked: false }, "-3").seed).toBe(0);
    expect(typed({ seed: 7, locked: false }, "99999999999999999999").seed).toBe(SEED_MAX);
    expect(SEED_MAX).toBe(2 ** 53 - 1 - 256);
  });

  it("draws whole numbers that differ", () => {
    const seeds = Array.from({ length: 50 }, drawSeed);
    for (const seed of seeds) expect(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 31).toBe(true);
    expect(new Set(seeds).size).toBeGreaterThan(45);
  });
});
