import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { fireEvent, render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { MaskEditor } from "./MaskEditor";

function Page() {
  const [opened, setOpened] = useState(false);
  return (
    <MantineProvider env="test">
      <QueryClientProvider client={new QueryClient()}>
        <button onClick={() => setOpened(true)} type="button">
          Paint it
        </button>
        <MaskEditor onClose={() => setOpened(false)} onDone={() => undefined} opened={opened} src="/a.png" />
      </QueryClientProvider>
    </MantineProvider>
  );
}

const lineTo = vi.fn();
const context = { clearRect: vi.fn(), beginPath: vi.fn(), arc: vi.fn(), fill: vi.fn(), moveTo: vi.fn() };

beforeEach(() => {
  const drawn = { ...context, lineTo, stroke: vi.fn() };
  vi.spyOn(HTMLCanvasElement.prototype, "getContext").mockReturnValue(drawn as never);
  HTMLElement.prototype.setPointerCapture ??= () => undefined; // jsdom has none
});
afterEach(() => {
  vi.restoreAllMocks();
  lineTo.mockClear();
});

async function open() {
  const person = userEvent.setup();
  render(<Page />);
  await person.click(screen.getByRole("button", { name: "Paint it" }));
  return { person, canvas: screen.getByRole("img", { name: "Mask over the image" }) };
}

describe("the mask editor", () => {
  it("gives the focus back to what opened it, and begins anew", async () => {
    const { person, canvas } = await open();
    fireEvent.pointerDown(canvas);
    expect(screen.getByRole("button", { name: "Undo" })).toHaveProperty("disabled", false);
    await person.keyboard("{Escape}");
    const opener = screen.getByRole("button", { name: "Paint it" });
    await waitFor(() => expect(document.activeElement).toBe(opener));
    await person.click(opener);
    expect(screen.getByRole("button", { name: "Undo" })).toHaveProperty("disabled", true);
  });

  it("has room to paint where the window is low", async () => {
    vi.stubGlobal("innerHeight", 300);
    const { canvas } = await open();
    const picture = canvas.previousElementSibling as HTMLImageElement;
    Object.defineProperties(picture, { naturalWidth: { value: 64 }, naturalHeight: { value: 32 } });
    fireEvent.load(picture);
    expect(canvas.parentElement?.style).toMatchObject({ width: "160px", height: "80px" });
    vi.unstubAllGlobals();
  });

  it("paints with the primary button only", async () => {
    const { canvas } = await open();
    fireEvent.pointerDown(canvas, { button: 2 });
    fireEvent.pointerMove(canvas);
    expect(screen.getByRole("button", { name: "Undo" })).toHaveProperty("disabled", true);
  });

  it.each(["pointerUp", "pointerCancel", "lostPointerCapture"] as const)(
    "ends a stroke on %s",
    async (end) => {
      const { canvas } = await open();
      fireEvent.pointerDown(canvas);
      fireEvent.pointerMove(canvas);
      expect(lineTo).toHaveBeenCalledTimes(1);
      fireEvent[end](canvas);
      fireEvent.pointerMove(canvas);
      expect(lineTo).toHaveBeenCalledTimes(1);
    },
  );
});
