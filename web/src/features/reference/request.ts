/** What was typed, as a request: for the browser, and as a command for the shell. */
import { quoted } from "@/lib/recipe";
import type { Operation, Parameter } from "./document";

export interface Given {
  parameters: Record<string, string>; // by keyOf; "" is left out
  body: string; // JSON
  parts: Record<string, string | File>; // of a form; "" is left out
  file: File | null; // a body that is one
}

export const keyOf = (parameter: Parameter): string => `${parameter.in} ${parameter.name}`;

function typedFor(parameter: Parameter, given: Given): string {
  return given.parameters[keyOf(parameter)] ?? "";
}

/** The values of a query's parameter: a list's are typed with commas. */
function listFor(parameter: Parameter, given: Given): string[] {
  const value = typedFor(parameter, given);
  const list = parameter.schema.anyOf?.some(({ type }) => type === "array");
  return (list ? value.split(",").map((one) => one.trim()) : [value]).filter((one) => one !== "");
}

export function urlOf(operation: Operation, given: Given): string {
  let path = operation.path;
  const query = new URLSearchParams();
  for (const parameter of operation.parameters) {
    if (parameter.in === "path")
      path = path.replace(`{${parameter.name}}`, encodeURIComponent(typedFor(parameter, given)));
    if (parameter.in === "query")
      for (const value of listFor(parameter, given)) query.append(parameter.name, value);
  }
  return query.size > 0 ? `${path}?${query}` : path;
}

function headersOf(operation: Operation, given: Given): [string, string][] {
  const type = operation.body?.type;
  return [
    ...operation.parameters
      .filter((parameter) => parameter.in === "header" && typedFor(parameter, given) !== "")
      .map((parameter): [string, string] => [parameter.name, typedFor(parameter, given)]),
    ...(type !== undefined && type !== FORM ? [["Content-Type", type] as [string, string]] : []),
  ];
}

export const FORM = "multipart/form-data";
export const JSON_TYPE = "application/json";

const partsOf = (given: Given) => Object.entries(given.parts).filter(([, value]) => value !== "");

/** The cookie goes with it, and the browser says which page asks: as with every request of the page. */
export function requestOf(operation: Operation, given: Given): [url: string, init: RequestInit] {
  const init: RequestInit = { method: operation.method, headers: headersOf(operation, given) };
  if (operation.body?.type === JSON_TYPE) init.body = given.body;
  else if (operation.body?.type === FORM) {
    init.body = new FormData();
    for (const [name, value] of partsOf(given)) init.body.append(name, value);
  } else if (operation.body) init.body = given.file;
  return [urlOf(operation, given), init];
}

export function asCurl(operation: Operation, given: Given, origin: string): string {
  const { method, body } = operation;
  const lines = [
    `curl ${method === "HEAD" ? "--head" : `--request ${method}`} ${quoted(origin + urlOf(operation, given))}`,
    '--header "Authorization: Bearer $KARTINA_TOKEN"',
    ...headersOf(operation, given).map(([name, value]) => `--header ${quoted(`${name}: ${value}`)}`),
  ];
  if (body?.type === JSON_TYPE) lines.push(`--data ${quoted(given.body)}`);
  else if (body?.type === FORM)
    for (const [name, value] of partsOf(given))
      lines.push(`--form ${quoted(`${name}=${typeof value === "string" ? value : `@${value.name}`}`)}`);
  else if (body) lines.push(`--data-binary ${quoted(`@${given.file?.name ?? "FILE"}`)}`);
  return lines.join(" \\\n  ");
}
