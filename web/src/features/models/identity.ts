/** What numbers were measured with: the part that all share is told once, the rest beside each. */
import type { Metric } from "@/client/client";

export type Identity = Metric["identity"];
type Entry = [name: string, value: string];

/** Hashes are shortened: the first characters tell two apart. */
function shown(value: unknown): string {
  if (typeof value === "number") return value.toLocaleString("en");
  if (typeof value === "string") return /^[0-9a-f]{24,}$/.test(value) ? value.slice(0, 10) : value;
  if (Array.isArray(value)) return value.map(shown).join(", ");
  return JSON.stringify(value);
}

export function entries(identity: Identity | undefined): Entry[] {
  return Object.entries(identity ?? {}).map(([name, value]) => [name.replaceAll("_", " "), shown(value)]);
}

export function told(list: Entry[]): string {
  return list.map(([name, value]) => `${name} ${value}`).join(" · ");
}

export function split(metrics: Record<string, Metric>): { shared: Entry[]; own: Record<string, Entry[]> } {
  const all = Object.values(metrics).map((metric) => entries(metric.identity));
  const shared =
    all.length < 2
      ? []
      : (all[0] ?? []).filter(([name, value]) =>
          all.every((list) => list.some(([n, v]) => n === name && v === value)),
        );
  const names = new Set(shared.map(([name]) => name));
  const own = Object.fromEntries(
    Object.entries(metrics).map(([key, metric]) => [
      key,
      entries(metric.identity).filter(([n]) => !names.has(n)),
    ]),
  );
  return { shared, own };
}

const ORDER = ["class_agreement", "coverage", "diversity", "fd", "fid", "kid"];

/** The metrics, best known first. */
export function ordered(metrics: Record<string, Metric>): [string, Metric][] {
  const rank = (name: string) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return Object.entries(metrics).toSorted(([a], [b]) => rank(a) - rank(b));
}
