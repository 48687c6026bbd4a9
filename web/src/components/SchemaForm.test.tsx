import { MantineProvider } from "@mantine/core";
import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { describe, expect, it } from "vitest";
import { defaultsOf, fieldsOf, type Values } from "@/lib/schema";
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

function Form({
  onValues,
  faults = {},
}: {
  onValues?: (values: Values) => void;
  faults?: Record<string, string>;
}) {
  const [values, setValues] = useState<Values>(defaultsOf(fields));
  return (
    <MantineProvider env="test">
      <SchemaForm
        faults={faults}
        fields={fields}
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

  it("shows what the service said is wrong beside its control", () => {
    render(<Form faults={{ steps: "controls.steps: expected at most 20" }} />);
    expect(screen.getByText("controls.steps: expected at most 20")).toBeTruthy();
  });
});
