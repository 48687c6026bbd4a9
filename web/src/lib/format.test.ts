import { describe, expect, it } from "vitest";
import { ago, decimal, interval, seconds } from "./format";

describe("numbers", () => {
  it("show as many digits as mean something", () => {
    expect(decimal(0.9123, "en")).toBe("0.91");
    expect(decimal(12.34, "en")).toBe("12.3");
    expect(decimal(1234.5, "en")).toBe("1,235");
    expect(decimal(0.9123, "ru")).toBe("0,91");
  });

  it("show an even interval as ±, another as its ends", () => {
    expect(interval(0.912, [0.902, 0.922], "en")).toBe("± 0.01");
    expect(interval(0.98, [0.9, 0.99], "en")).toBe("0.90–0.99");
    expect(interval(0.98, null, "en")).toBe("");
  });
});

describe("seconds", () => {
  it.each([
    [0, "<0.1 sec"],
    [49, "<0.1 sec"],
    [50, "0.1 sec"],
    [1234, "1.2 sec"],
    [12_345, "12 sec"],
  ])("%d ms are %s", (ms, text) => {
    expect(seconds(ms, "en")).toBe(text);
  });
});

describe("ago", () => {
  const now = Date.parse("2026-11-23T12:00:00Z");
  it.each([
    ["2026-11-23T11:59:40Z", "now"],
    ["2026-11-23T11:57:00Z", "3 minutes ago"],
    ["2026-11-23T10:00:00Z", "2 hours ago"],
    ["2026-11-22T11:00:00Z", "yesterday"],
    ["2026-10-01T12:00:00Z", "Oct 1, 2026"],
  ])("%s is %s", (iso, text) => {
    expect(ago(iso, "en", now)).toBe(text);
  });
});
