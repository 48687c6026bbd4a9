import { describe, expect, it } from "vitest";
import { changesOf, defaultsOf, fieldsOf, niceStep } from "./schema";

// As pydantic writes it.
const FLOW = {
  title: "FlowControls",
  type: "object",
  additionalProperties: false,
  $defs: { Solver: { enum: ["euler", "heun"], title: "Solver", type: "string" } },
  properties: {
    steps: {
      title: "Steps",
      type: "integer",
      minimum: 1,
      maximum: 100,
      default: 12,
      description: "More is finer.",
    },
    guidance: { title: "Guidance", type: "number", minimum: 1, maximum: 8, default: 1.5 },
    solver: { $ref: "#/$defs/Solver", default: "heun", description: "Heun is more exact." },
    temperature: { type: "number", exclusiveMinimum: 0, maximum: 1, default: 1 },
    cutoff: { anyOf: [{ type: "number", minimum: 0 }, { type: "null" }], default: null, title: "Cutoff" },
    clip: { type: "boolean", default: true },
    mode: { const: "fast", default: "fast" },
    scale: { type: "number", minimum: 1, maximum: 1, default: 1 },
    sizes: { type: "array", items: { type: "integer" }, default: [] },
  },
};

const field = (name: string, defaults = {}) => {
  const found = fieldsOf(FLOW, defaults).find((one) => one.name === name);
  if (!found) throw new Error(`no field ${name}`);
  return found;
};

describe("fieldsOf", () => {
  it("keeps the schema's order, titles and descriptions, and leaves out what has one value only", () => {
    const names = Object.keys(FLOW.properties).filter((name) => name !== "mode" && name !== "scale");
    expect(fieldsOf(FLOW).map(({ name }) => name)).toEqual(names);
    expect(field("steps")).toMatchObject({ title: "Steps", description: "More is finer.", default: 12 });
    expect(field("clip").title).toBe("Clip");
  });

  it("reads numbers with bounds and a step", () => {
    expect(field("steps")).toMatchObject({ kind: "integer", min: 1, max: 100, step: 1 });
    expect(field("guidance")).toMatchObject({ kind: "number", min: 1, max: 8, step: 0.05 });
  });

  it("keeps clear of an exclusive bound by a step", () => {
    expect(field("temperature")).toMatchObject({ min: 0.01, max: 1, step: 0.01 });
  });

  it("follows references and keeps what stands beside them", () => {
    expect(field("solver")).toMatchObject({
      kind: "choice",
      options: ["euler", "heun"],
      default: "heun",
      description: "Heun is more exact.",
    });
  });

  it("reads `X | None` as X that may be null", () => {
    expect(field("cutoff")).toMatchObject({ kind: "number", nullable: true, min: 0, default: null });
  });

  it("reads booleans, and leaves lists alone", () => {
    expect(field("clip")).toMatchObject({ kind: "switch", default: true });
    expect(field("sizes").kind).toBe("other");
  });

  it("prefers the package's defaults to the schema's", () => {
    expect(field("steps", { steps: 24 }).default).toBe(24);
  });

  it("gives no fields for what is not a schema, and survives a reference in a circle", () => {
    expect(fieldsOf(null)).toEqual([]);
    expect(fieldsOf("steps")).toEqual([]);
    const circle = { properties: { a: { $ref: "#/$defs/A" } }, $defs: { A: { $ref: "#/$defs/A" } } };
    expect(fieldsOf(circle)[0]?.kind).toBe("other");
    expect(fieldsOf({ properties: { a: { $ref: "https://elsewhere/x" } } })[0]?.kind).toBe("other");
  });
});

describe("values", () => {
  it("starts at the defaults and tells only what was changed", () => {
    const fields = fieldsOf(FLOW);
    const values = { ...defaultsOf(fields), steps: 24 };
    expect(changesOf(fields, defaultsOf(fields))).toEqual({});
    expect(changesOf(fields, values)).toEqual({ steps: 24 });
  });
});

describe("niceStep", () => {
  it.each([
    [0, 1, 0.01],
    [1, 8, 0.05],
    [0, 100, 1],
    [0, 0.05, 0.0005],
  ])("from %d to %d: %d", (min, max, step) => {
    expect(niceStep(min, max)).toBe(step);
  });
});
