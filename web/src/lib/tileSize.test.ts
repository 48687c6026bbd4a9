import { describe, expect, it } from "vitest";
import { enlarge, hang } from "./tileSize";

describe("hang", () => {
  it.each([
    [28, 16, 908],
    [32, 16, 908],
    [64, 12, 908],
    [28, 100, 908],
    [28, 4, 343],
    [32, 1, 343],
    [28, 16, 343],
  ])("%d px, %d pictures, %d px of wall: whole factors, nothing sticks out", (natural, count, width) => {
    const wall = { width, gap: 10, mat: 6 };
    const { columns, width: size } = hang(natural, count, wall);
    expect(size % natural).toBe(0);
    expect(columns * (size + 12) + (columns - 1) * 10).toBeLessThanOrEqual(width);
  });

  it("shows fewer pictures larger", () => {
    const wall = { width: 908, gap: 20, mat: 10 };
    expect(hang(28, 1, wall).width).toBeGreaterThan(hang(28, 16, wall).width);
    expect(hang(28, 16, wall).width).toBeGreaterThan(hang(28, 200, wall).width);
  });

  it("shrinks pictures that are larger than their place, smoothly", () => {
    const { columns, width, crisp } = hang(512, 16, { width: 343, gap: 10, mat: 6 });
    expect(crisp).toBe(false);
    expect(columns * (width + 12) + (columns - 1) * 10).toBeLessThanOrEqual(343);
  });
});

describe("enlarge", () => {
  it("magnifies by whole factors, but not to a floor of tiles", () => {
    expect(enlarge(64, 600)).toEqual({ width: 576, crisp: true });
    expect(enlarge(28, 2000)).toEqual({ width: 448, crisp: true });
    expect(enlarge(1024, 600)).toEqual({ width: 600, crisp: false });
  });
});
