/** A generation as a command that makes it again: for the shell, and for Python. */
import type { Job } from "@/client/client";
import { changesOf, type Field } from "./schema";

export type Recipe = Pick<
  Job["request"],
  "model" | "task" | "labels" | "n" | "seed" | "controls" | "image" | "to_image" | "mask"
>;

/** One shell word, whatever is in it. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function chosen(recipe: Recipe, fields: Field[]): Record<string, unknown> {
  return fields.length > 0 ? changesOf(fields, recipe.controls) : recipe.controls;
}

export function asCurl(recipe: Recipe, fields: Field[], origin: string): string {
  const controls = chosen(recipe, fields);
  const body = {
    model: recipe.model,
    ...(recipe.task !== "generate" && { task: recipe.task }),
    ...(recipe.labels.length > 0 && { labels: recipe.labels }),
    n: recipe.n,
    seed: recipe.seed,
    ...(Object.keys(controls).length > 0 && { controls }),
    ...(recipe.image && { image: recipe.image }),
    ...(recipe.to_image && { to_image: recipe.to_image }),
    ...(recipe.mask && { mask: recipe.mask }),
  };
  return [
    `curl ${quoted(`${origin}/v1/generations`)}`,
    `-H "Authorization: Bearer $KARTINA_TOKEN"`,
    `-H 'Content-Type: application/json'`,
    `-H 'Prefer: wait=60'`,
    `-d ${quoted(JSON.stringify(body))}`,
  ].join(" \\\n  ");
}

/** A JSON value as a Python literal. */
export function literal(value: unknown): string {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, item]) => `${JSON.stringify(key)}: ${literal(item)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}

const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** The files that stand for a task's images: a command cannot carry them. */
const FILES = { image: "image.png", to_image: "to_image.png", mask: "mask.png" } as const;

export function asPython(recipe: Recipe, fields: Field[]): string {
  const method = recipe.task === "generate" || !NAME.test(recipe.task) ? "sample" : recipe.task;
  const files = (["image", "to_image", "mask"] as const).filter((kind) => recipe[kind]);
  const controls = Object.entries(chosen(recipe, fields)).filter(([name]) => NAME.test(name));
  const labels = recipe.labels.length > 0 ? literal(recipe.labels) : "None";
  const settings = [
    ...files.map((kind) => literal(FILES[kind])),
    files.length > 0 ? `labels=${labels}` : labels,
    `n=${recipe.n}`,
    `seed=${recipe.seed}`,
    ...controls.map(([name, value]) => `${name}=${literal(value)}`),
  ];
  return [
    "import kartina",
    "",
    `model = kartina.load(${literal(recipe.model)})`,
    `samples = model.${method}(${settings.join(", ")})`,
    `samples.save("pictures")`,
    "",
  ].join("\n");
}
