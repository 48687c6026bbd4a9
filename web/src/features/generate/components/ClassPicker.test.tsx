import { MantineProvider } from "@mantine/core";
import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, it, vi } from "vitest";
import type { Model } from "@/client/client";
import { ClassPicker } from "./ClassPicker";

const model = {
  classes: Array.from({ length: 20 }, (_, index) => `class ${index}`),
  image: { width: 28, height: 28 },
  urls: { classes: [] },
} as unknown as Model;

it("sends no form on Enter, but chooses the only class that is found", async () => {
  const person = userEvent.setup();
  const onChange = vi.fn();
  const onSubmit = vi.fn((event: React.FormEvent) => event.preventDefault());
  render(
    <MantineProvider env="test">
      <form onSubmit={onSubmit}>
        <ClassPicker model={model} onChange={onChange} selected={["class 3"]} />
        <button type="submit">Generate</button>
      </form>
    </MantineProvider>,
  );
  const find = screen.getByRole("searchbox", { name: "Find a class" });
  await person.type(find, "class 1{Enter}");
  expect(onChange).not.toHaveBeenCalled(); // class 10 and on are found, too
  await person.type(find, "7{Enter}");
  expect(onChange.mock.calls).toEqual([[["class 3", "class 17"]]]);
  expect(onSubmit).not.toHaveBeenCalled();
});
