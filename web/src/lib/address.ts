/** The state that lives in the page's address: what is read from it, and how it is written. Everything is text there. */

export type Search = Record<string, string | undefined>;

export function parseSearch(query: string): Search {
  return Object.fromEntries(new URLSearchParams(query));
}

export function stringifySearch(search: Record<string, unknown>): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(search))
    if (value !== undefined && value !== null && value !== "") query.set(key, String(value));
  const text = query.toString().replaceAll("%40", "@"); // model@1 reads better, and may stand there
  return text ? `?${text}` : "";
}

/** Only these keys, and only where they say something. */
export function only<K extends string>(
  search: Search,
  keys: readonly K[],
): { [key in K]?: string | undefined } {
  const found: { [key in K]?: string | undefined } = {};
  for (const key of keys) {
    const value = search[key];
    if (typeof value === "string" && value !== "" && value.length <= 1000) found[key] = value;
  }
  return found;
}
