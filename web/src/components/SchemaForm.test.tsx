import { MantineProvider } from "@mantine/core";
import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { describe, expect, it } from "vitest";
import { defaultsOf, type Field, fieldsOf, type Values } from "@/lib/schema";
import { SchemaForm } from "./SchemaForm";

const fields = fieldsOf({
  properties: {
    steps: {
      title: "Steps",
      type: "integer",
      minimum: 1,
      maximum: 50,
      default: 12,
      description: "More is finer.",
    },
    solver: { title: "Solver", enum: ["euler", "heun"], default: "heun" },
    palette: { title: "Palette", enum: ["red", "green", "blue", "violet", "yellow"], default: "red" },
    clip: { title: "Clip", type: "boolean", default: false },
    limit: { title: "Limit", anyOf: [{ type: "number" }, { type: "null" }], default: 3 },
    sizes: { title: "Sizes", type: "array", default: [] },
  },
});

const exact = fieldsOf({
  properties: {
    guidance: { title: "Guidance", type: "number", minimum: 0, maximum: 8, default: 3 },
    to_seed: { title: "To seed", type: "integer", minimum: 0, exclusiveMaximum: 2 ** 63, default: 7 },
  },
});

function Form({
  onValues,
  faults = {},
  fields: shown = fields,
}: {
  onValues?: (values: Values) => void;
  faults?: Record<string, string>;
  fields?: Field[];
}) {
  const [values, setValues] = useState<Values>(defaultsOf(shown));
  return (
    <MantineProvider env="test">
      <SchemaForm
        faults={faults}
        fields={shown}
        onChange={(name, value) => {
          const next = { ...values, [name]: value };
          setValues(next);
          onValues?.(next);
        }}
        values={values}
      />
    </MantineProvider>
  );
}

describe("SchemaForm", () => {
  it("draws a control for each kind, named and described", () => {
    render(<Form />);
    expect(screen.getByRole("slider", { name: "Steps" })).toBeTruthy();
    expect(screen.getByRole("textbox", { name: "Steps" })).toHaveProperty("value", "12");
    expect(screen.getByText("More is finer.")).toBeTruthy();
    expect(screen.getByRole("radio", { name: "heun" })).toHaveProperty("checked", true);
    expect(screen.getByRole("combobox", { name: "Palette" })).toHaveProperty("value", "red");
    expect(screen.getByRole("switch", { name: "Clip" })).toHaveProperty("checked", false);
    expect(screen.getByText("Set through the API")).toBeTruthy();
  });

  it("gives typed values of the schema's types", async () => {
    const person = userEvent.setup();
    let values: Values = {};
    render(<Form onValues={(next) => (values = next)} />);
    const steps = screen.getByRole("textbox", { name: "Steps" });
    await person.clear(steps);
    await person.type(steps, "24");
    await person.click(screen.getByRole("radio", { name: "euler" }));
    await person.click(screen.getByRole("switch", { name: "Clip" }));
    await person.clear(screen.getByRole("textbox", { name: "Limit" }));
    expect(values).toMatchObject({ steps: 24, solver: "euler", clip: true, limit: null });
  });

  it("brings a number back into its bounds", async () => {
    const person = userEvent.setup();
    let values: Values = {};
    render(<Form onValues={(next) => (values = next)} />);
    const steps = screen.getByRole("textbox", { name: "Steps" });
    await person.clear(steps);
    await person.type(steps, "999");
    await person.tab();
    expect(values.steps).toBe(50);
  });

  it("uses the number that is shown, also while it is typed", async () => {
    const person = userEvent.setup();
    let values: Values = {};
    render(<Form fields={exact} onValues={(next) => (values = next)} />);
    const guidance = screen.getByRole("textbox", { name: "Guidance" });
    for (const [text, used] of [
      ["2.", 2],
      ["1.0", 1],
      ["1.05{Backspace}", 1],
    ] as const) {
      await person.clear(guidance);
      await person.type(guidance, text);
      expect(values.guidance).toBe(used);
    }
    expect(guidance).toHaveProperty("value", "1.0"); // typing goes on from here
    await person.type(guidance, "7");
    expect(values.guidance).toBe(1.07);
    const seed = screen.getByRole("textbox", { name: "To seed" });
    await person.clear(seed);
    await person.type(seed, "123456789012345");
    expect(values.to_seed).toBe(123456789012345);
  });

  it.each(["{Tab}", "{Enter}"])("shows on %s the number that is used", async (key) => {
    const person = userEvent.setup();
    let values: Values = {};
    render(<Form fields={exact} onValues={(next) => (values = next)} />);
    const guidance = screen.getByRole("textbox", { name: "Guidance" });
    await person.clear(guidance);
    await person.keyboard(key);
    expect(guidance).toHaveProperty("value", "3");
    const seed = screen.getByRole("textbox", { name: "To seed" });
    await person.clear(seed);
    await person.type(seed, `99999999999999999999${key}`); // no double stands for it alone
    expect(seed).toHaveProperty("value", String(values.to_seed));
    expect(Number.isSafeInteger(values.to_seed)).toBe(true);
  });

  it("has no slider for a range that it could not meet values of", () => {
    render(<Form fields={exact} />);
    expect(screen.getByRole("slider", { name: "Guidance" })).toBeTruthy();
    expect(screen.queryByRole("slider", { name: "To seed" })).toBeNull();
  });

  it("shows what the service said is wrong beside its control", () => {
    render(<Form faults={{ steps: "controls.steps: expected at most 20" }} />);
    expect(screen.getByText("controls.steps: expected at most 20")).toBeTruthy();
  });
});
