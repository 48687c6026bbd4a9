/** A generation as a command that makes it again: for the shell, and for Python. */
import type { Job } from "@/client/client";
import { changesOf, type Field } from "@/lib/schema";

type Request = Pick<Job["request"], "model" | "labels" | "n" | "seed" | "controls">;

/** One shell word, whatever is in it. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function chosen(request: Request, fields: Field[]): Record<string, unknown> {
  return fields.length > 0 ? changesOf(fields, request.controls) : request.controls;
}

export function asCurl(request: Request, fields: Field[], origin: string): string {
  const controls = chosen(request, fields);
  const body = {
    model: request.model,
    ...(request.labels.length > 0 && { labels: request.labels }),
    n: request.n,
    seed: request.seed,
    ...(Object.keys(controls).length > 0 && { controls }),
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

export function asPython(request: Request, fields: Field[]): string {
  const controls = Object.entries(chosen(request, fields)).filter(([name]) => NAME.test(name));
  const settings = [
    request.labels.length > 0 ? literal(request.labels) : "None",
    `n=${request.n}`,
    `seed=${request.seed}`,
    ...controls.map(([name, value]) => `${name}=${literal(value)}`),
  ];
  return [
    "import kartina",
    "",
    `model = kartina.load(${literal(request.model)})`,
    `samples = model.sample(${settings.join(", ")})`,
    `samples.save("pictures")`,
    "",
  ].join("\n");
}
