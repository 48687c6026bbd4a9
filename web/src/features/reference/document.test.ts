import { describe, expect, it } from "vitest";
import text from "@/../openapi.json?raw";
import texts from "@/lib/i18n/reference.en.json";
import {
  type Document,
  example,
  groupsOf,
  isFile,
  limitsOf,
  objectsOf,
  operationsOf,
  resolved,
  type Schema,
  typeName,
} from "./document";
import { FORM, JSON_TYPE } from "./request";

const document: Document = JSON.parse(text);
const operations = operationsOf(document);

describe("the service's own document", () => {
  it("has every operation in the reference, each with a name of its own", () => {
    const count = Object.values(document.paths).reduce(
      (sum, methods) => sum + Object.keys(methods).length,
      0,
    );
    expect(operations.length).toBe(count);
    expect(new Set(operations.map(({ id }) => id)).size).toBe(count);
    expect(groupsOf(operations, "").flatMap(([, group]) => group).length).toBe(count);
  });

  it("has a name for every group", () => {
    expect(
      groupsOf(operations, "")
        .map(([group]) => group)
        .sort(),
    ).toEqual(Object.keys(texts.group).sort());
  });

  it("uses what the form can send", () => {
    for (const { parameters, body } of operations) {
      for (const one of parameters) expect(["path", "query", "header"]).toContain(one.in);
      if (body) expect([JSON_TYPE, FORM, "application/partial-upload"]).toContain(body.type);
    }
  });

  it("has an object to begin with for every JSON body", () => {
    for (const { body } of operations)
      if (body?.type === JSON_TYPE) {
        const { required = [] } = resolved(body.schema, document);
        expect(Object.keys(example(body.schema, document) as object)).toEqual(required);
      }
  });

  it("is found by words in any order", () => {
    const found = groupsOf(operations, " Models  LIST ");
    expect(found.map(([group, [first]]) => [group, first?.id])).toEqual([["models", "list_models"]]);
    expect(groupsOf(operations, "no such words")).toEqual([]);
  });
});

describe("a schema", () => {
  const schemas: Record<string, Schema> = {
    Cat: { type: "object", properties: { name: { type: "string" } }, required: ["name"] },
  };
  const small = { components: { schemas } } as unknown as Document;
  const cat: Schema = { $ref: "#/components/schemas/Cat" };

  it("has a type of a few words", () => {
    const types: [Schema, string][] = [
      [cat, "Cat"],
      [{ anyOf: [{ type: "integer" }, { type: "null" }] }, "integer | null"],
      [{ type: "array", items: cat }, "Cat[]"],
      [{ type: "array", items: { anyOf: [cat, { type: "null" }] } }, "(Cat | null)[]"],
      [{ type: "array", prefixItems: [{ type: "number" }, { type: "number" }] }, "[number, number]"],
      [{ type: "object", additionalProperties: cat }, "{ [name]: Cat }"],
      [{ type: "string", enum: ["png", "webp"] }, '"png" | "webp"'],
      [{ type: "string", const: "ok" }, '"ok"'],
      [{ type: "string", format: "date-time" }, "date-time"],
      [{ type: "string", format: "binary" }, "file"],
      [{}, "any"],
    ];
    for (const [schema, name] of types) expect(typeName(schema)).toBe(name);
  });

  it("has the objects that can be unfolded in it", () => {
    const inside = { anyOf: [{ type: "array", items: cat }, { type: "null" }] };
    expect(objectsOf(inside, small)).toEqual([["Cat", schemas.Cat]]);
    expect(objectsOf({ additionalProperties: cat }, small)).toEqual([["Cat", schemas.Cat]]);
    expect(objectsOf({ type: "string" }, small)).toEqual([]);
  });

  it("says its limits, but not of several kinds of value at once", () => {
    expect(limitsOf({ anyOf: [{ type: "integer", minimum: 0, maximum: 9 }, { type: "null" }] })).toEqual([
      "minimum 0",
      "maximum 9",
    ]);
    expect(limitsOf({ anyOf: [{ minLength: 1 }, { minItems: 1 }] })).toEqual([]);
  });

  it("is a file by its format or by its media type, also in a list", () => {
    const media = { type: "string", contentMediaType: "application/octet-stream" };
    expect(isFile({ type: "string", format: "binary" })).toBe(true);
    expect(isFile({ anyOf: [{ type: "array", items: media }, { type: "null" }] })).toBe(true);
    expect(isFile({ type: "string" })).toBe(false);
  });
});
