/** A task's JSON Schema, as pydantic writes it, into the fields of a form. Reads the schema; never evaluates anything. */

export interface FieldBase {
  name: string;
  title: string;
  description: string;
  default: unknown;
  nullable: boolean; // null is allowed: "let the model choose"
}

export interface NumberField extends FieldBase {
  kind: "number" | "integer";
  min: number | undefined;
  max: number | undefined;
  step: number;
}
export interface ChoiceField extends FieldBase {
  kind: "choice";
  options: (string | number)[];
}
export interface SwitchField extends FieldBase {
  kind: "switch";
}
export interface TextField extends FieldBase {
  kind: "text";
}
/** Lists and objects: kept at their default, settable through the API. */
export interface OtherField extends FieldBase {
  kind: "other";
}
export type Field = NumberField | ChoiceField | SwitchField | TextField | OtherField;

type Schema = Record<string, unknown>;
export type Values = Record<string, unknown>;

const isSchema = (value: unknown): value is Schema =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const num = (value: unknown) => (typeof value === "number" && Number.isFinite(value) ? value : undefined);

/** Follow "#/$defs/Name" inside the same document; another place is an empty schema. */
function resolve(node: unknown, root: Schema): Schema {
  let found = isSchema(node) ? node : {};
  for (let hops = 0; typeof found.$ref === "string" && hops < 8; hops++) {
    const { $ref, ...beside } = found;
    let target: unknown = $ref.startsWith("#/") ? root : {};
    for (const key of $ref.slice(2).split("/")) target = isSchema(target) ? target[key] : undefined;
    found = { ...(isSchema(target) ? target : {}), ...beside };
  }
  return found;
}

/** `X | None` and single-entry allOf as X; the title, default and description beside it win. */
function unwrap(node: Schema, root: Schema): { schema: Schema; nullable: boolean } {
  const union = Array.isArray(node.anyOf) ? node.anyOf : Array.isArray(node.oneOf) ? node.oneOf : node.allOf;
  if (!Array.isArray(union)) return { schema: node, nullable: false };
  const members = union.map((member) => resolve(member, root));
  const solid = members.filter((member) => member.type !== "null");
  const { anyOf: _any, oneOf: _one, allOf: _all, ...beside } = node;
  return {
    schema: solid.length === 1 ? { ...solid[0], ...beside } : beside,
    nullable: solid.length < members.length,
  };
}

function titled(name: string): string {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** A step of 1, 2 or 5 times a power of ten that gives at least a hundred stops over the range. */
export function niceStep(min: number | undefined, max: number | undefined): number {
  if (min === undefined || max === undefined || max <= min) return 0.1;
  const rough = (max - min) / 100;
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [5, 2, 1].find((candidate) => candidate * power <= rough * 1.000001) ?? 1;
  return Number((factor * power).toPrecision(1));
}

function numberField(base: FieldBase, schema: Schema, kind: "number" | "integer"): NumberField {
  const above = num(schema.exclusiveMinimum);
  const below = num(schema.exclusiveMaximum);
  const lowest = num(schema.minimum) ?? above;
  const highest = num(schema.maximum) ?? below;
  const step = num(schema.multipleOf) ?? (kind === "integer" ? 1 : niceStep(lowest, highest));
  const clean = (value: number) => Number(value.toPrecision(12));
  return {
    ...base,
    kind,
    step,
    min: num(schema.minimum) ?? (above === undefined ? undefined : clean(above + step)),
    max: num(schema.maximum) ?? (below === undefined ? undefined : clean(below - step)),
  };
}

function fieldOf(name: string, node: unknown, root: Schema, defaults: Values): Field {
  const { schema, nullable } = unwrap(resolve(node, root), root);
  const base: FieldBase = {
    name,
    title: typeof schema.title === "string" ? schema.title : titled(name),
    description: typeof schema.description === "string" ? schema.description : "",
    default: name in defaults ? defaults[name] : (schema.default ?? null),
    nullable,
  };
  const options = Array.isArray(schema.enum) ? schema.enum : "const" in schema ? [schema.const] : null;
  if (options?.every((option) => typeof option === "string" || typeof option === "number"))
    return { ...base, kind: "choice", options: options as (string | number)[] };
  if (schema.type === "boolean") return { ...base, kind: "switch" };
  if (schema.type === "integer" || schema.type === "number") return numberField(base, schema, schema.type);
  if (schema.type === "string") return { ...base, kind: "text" };
  return { ...base, kind: "other" };
}

/** Whether there is nothing to choose: one value is all that it can have. */
function settled(field: Field): boolean {
  if (field.nullable) return false;
  if (field.kind === "choice") return field.options.length === 1;
  return (
    (field.kind === "number" || field.kind === "integer") &&
    field.min !== undefined &&
    field.min === field.max
  );
}

/** The fields of a task's controls that can be set, in the schema's order. */
export function fieldsOf(schema: unknown, defaults: Values = {}): Field[] {
  const root = isSchema(schema) ? schema : {};
  const properties = isSchema(root.properties) ? root.properties : {};
  return Object.entries(properties)
    .map(([name, node]) => fieldOf(name, node, root, defaults))
    .filter((field) => !settled(field));
}

export function defaultsOf(fields: Field[]): Values {
  return Object.fromEntries(fields.map((field) => [field.name, field.default]));
}

/** Only what differs from the defaults: what a person chose, and what a copied command needs to say. */
export function changesOf(fields: Field[], values: Values): Values {
  return Object.fromEntries(
    fields
      .filter(({ name, default: standard }) => name in values && values[name] !== standard)
      .map(({ name }) => [name, values[name]]),
  );
}
