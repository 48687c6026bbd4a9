import { useHotkeys } from "@mantine/hooks";
import { fireEvent, renderHook } from "@testing-library/react";
import { expect, it, vi } from "vitest";
import { anyLayout, letterOf } from "./keys";

it("takes the letter that stands there on a Latin layout, and its place under another alphabet", () => {
  expect(letterOf({ key: "f", code: "KeyF" })).toBe("f");
  expect(letterOf({ key: "F", code: "KeyU" })).toBe("f"); // Dvorak
  expect(letterOf({ key: "а", code: "KeyF" })).toBe("f"); // Russian
  expect(letterOf({ key: "Я", code: "KeyZ" })).toBe("z");
  for (const key of ["Delete", "?", "1", "Dead"]) expect(letterOf({ key, code: "KeyF" })).toBe("");
  expect(letterOf({ key: "ж", code: "Semicolon" })).toBe("");
});

it("hears a hotkey once under each layout", () => {
  const undo = vi.fn();
  renderHook(() => useHotkeys(anyLayout("mod+Z", undo)));
  const press = (key: string, code: string) =>
    fireEvent.keyDown(document.body, { key, code, ctrlKey: true }) ? "left" : "taken";
  expect(press("z", "KeyZ")).toBe("taken");
  expect(press("я", "KeyZ")).toBe("taken");
  expect(press("z", "KeyY")).toBe("taken"); // German
  expect(undo).toHaveBeenCalledTimes(3);
  expect(press("y", "KeyZ")).toBe("left");
  expect(press(";", "KeyZ")).toBe("left");
  expect(undo).toHaveBeenCalledTimes(3);
});
