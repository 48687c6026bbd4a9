/** A recipe's controls as names and values for people; and what a picture's file is called. */
import { controlText, yesNo } from "./i18n/i18n";
import type { Field } from "./schema";

function told(value: unknown, language: string): string {
  if (typeof value === "number")
    return new Intl.NumberFormat(language, { maximumFractionDigits: 6 }).format(value);
  if (typeof value === "boolean") return yesNo(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** What the model was left to choose (null) is left out. */
export function controlFacts(
  controls: Record<string, unknown>,
  fields: Field[],
  language: string,
): [string, string][] {
  return Object.entries(controls)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => {
      const field = fields.find((one) => one.name === name) ?? { name, title: name, description: "" };
      return [controlText(field, language).title, told(value, language)];
    });
}

/** 003-Ankle-boot-seed7.png, as the service names files in its ZIP. */
export function fileName(index: number, label: string | null, seed: number, format = "png"): string {
  const plain = (label ?? "image").replace(/[^A-Za-z0-9_.-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "") || "image";
  return `${String(index).padStart(3, "0")}-${plain.slice(0, 60)}-seed${seed}.${format}`;
}
