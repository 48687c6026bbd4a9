/** The part of OpenAPI 3.1 that the service's own document uses, and how the reference reads it. */

export interface Schema {
  $ref?: string;
  type?: string;
  format?: string;
  contentMediaType?: string;
  contentSchema?: Schema;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  examples?: unknown[];
  anyOf?: Schema[];
  items?: Schema;
  prefixItems?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  [keyword: string]: unknown;
}

export interface Parameter {
  name: string;
  in: "path" | "query" | "header";
  required: boolean;
  schema: Schema; // has the description, too
}

export type Content = Record<string, { schema?: Schema; itemSchema?: Schema }>; // itemSchema: of one event of a stream

export interface Response {
  description: string;
  content?: Content;
  headers?: Record<string, { description?: string; schema: Schema }>;
}

interface Described {
  operationId: string;
  tags: string[];
  description: string;
  parameters?: Parameter[];
  requestBody?: { content: Content };
  responses: Record<string, Response>;
}

export interface Document {
  info: { version: string; description: string };
  paths: Record<string, Record<string, Described>>;
  components: { schemas: Record<string, Schema> };
}

export interface Operation {
  id: string;
  group: string;
  method: string; // in capitals
  path: string;
  description: string;
  parameters: Parameter[];
  body?: { type: string; schema: Schema };
  responses: [status: string, response: Response][];
}

export function operationsOf(document: Document): Operation[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]): Operation => {
      const [type, content] = Object.entries(described.requestBody?.content ?? {})[0] ?? [];
      return {
        id: described.operationId,
        group: described.tags[0] ?? "",
        method: method.toUpperCase(),
        path,
        description: described.description,
        parameters: described.parameters ?? [],
        ...(type !== undefined && { body: { type, schema: content?.schema ?? {} } }),
        responses: Object.entries(described.responses), // an object's keys that are numbers come in their order
      };
    }),
  );
}

/** Those that have every word of what was typed, in the order of the document, by group. */
export function groupsOf(operations: Operation[], typed: string): [group: string, Operation[]][] {
  const words = typed.toLowerCase().split(/\s+/);
  const found = new Map<string, Operation[]>();
  for (const operation of operations) {
    const { group, id, method, path, description } = operation;
    const text = `${group} ${id} ${method} ${path} ${description}`.toLowerCase();
    if (words.every((word) => text.includes(word)))
      found.set(group, [...(found.get(group) ?? []), operation]);
  }
  return [...found];
}

const nameOf = (reference: string) => reference.slice(reference.lastIndexOf("/") + 1);

/** The schema that a reference means, and what is said beside the reference. */
export function resolved(schema: Schema, document: Document): Schema {
  if (schema.$ref === undefined) return schema;
  const { $ref, ...beside } = schema;
  return { ...document.components.schemas[nameOf($ref)], ...beside };
}

/** The alternatives but null. */
export function choices(schema: Schema): Schema[] {
  return schema.anyOf?.filter(({ type }) => type !== "null") ?? [schema];
}

export function isFile(schema: Schema): boolean {
  return choices(schema).some(
    ({ format, contentMediaType, items }) =>
      format === "binary" || contentMediaType === "application/octet-stream" || (items && isFile(items)),
  );
}

/** The type in a word or two, as TypeScript writes it. */
export function typeName(schema: Schema): string {
  if (schema.$ref !== undefined) return nameOf(schema.$ref);
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.prefixItems) return `[${schema.prefixItems.map(typeName).join(", ")}]`;
  if (schema.type === "array") {
    const item = typeName(schema.items ?? {});
    return item.includes(" ") ? `(${item})[]` : `${item}[]`;
  }
  if (typeof schema.additionalProperties === "object")
    return `{ [name]: ${typeName(schema.additionalProperties)} }`;
  if (schema.type === "string" && isFile(schema)) return "file";
  if (schema.type === "string" && schema.format) return schema.format;
  return schema.type ?? "any";
}

/** The objects with fields that a value has in it, at once or as items: what a reader may want to unfold. */
export function objectsOf(schema: Schema, document: Document): [name: string, Schema][] {
  const found = resolved(schema, document);
  if (found.properties) return [[typeName(schema), found]];
  const { additionalProperties: values } = found;
  const inner = [
    ...(found.anyOf ?? []),
    ...(found.prefixItems ?? []),
    ...(found.items ? [found.items] : []),
    ...(found.contentSchema ? [found.contentSchema] : []),
    ...(typeof values === "object" ? [values] : []),
  ];
  return inner.flatMap((one) => objectsOf(one, document));
}

const LIMITS = [
  ...["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength", "maxLength", "pattern"],
  ...["minItems", "maxItems", "maxProperties"],
];
const NO_NUL = "^[^\\x00]*$"; // of nearly every string: not worth a word

/** What JSON Schema asks of a value beside its type, in its own words. */
export function limitsOf(schema: Schema): string[] {
  const [only, another] = choices(schema);
  if (only === undefined || another !== undefined) return [];
  return LIMITS.filter((keyword) => keyword in only && only[keyword] !== NO_NUL).map(
    (keyword) => `${keyword} ${only[keyword]}`,
  );
}

/** A value to begin with: what must be given, and no more. */
export function example(schema: Schema, document: Document): unknown {
  const found = resolved(schema, document);
  if (found.examples) return found.examples[0];
  if (found.default !== undefined) return found.default;
  if (found.const !== undefined) return found.const;
  if (found.enum) return found.enum[0];
  if (found.anyOf) return example(found.anyOf[0] ?? {}, document);
  if (found.properties) {
    const { properties, required = [] } = found;
    return Object.fromEntries(required.map((name) => [name, example(properties[name] ?? {}, document)]));
  }
  if (found.type === "array") {
    const least = Number(found.minItems ?? 0);
    return Array.from({ length: least }, () => example(found.items ?? {}, document));
  }
  if (found.type === "string") return "";
  if (found.type === "integer" || found.type === "number") return found.minimum ?? 0;
  if (found.type === "boolean") return false;
  return {};
}
