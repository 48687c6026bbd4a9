/** What of the gallery is shown: as the address says it, as the service is asked, as a ZIP is fetched. */

export interface Filters {
  view?: string | undefined; // "favourites" or "trash"; all others: everything
  model?: string | undefined;
  label?: string | undefined;
  since?: string | undefined; // 2026-11-23, a day of the person's calendar
  until?: string | undefined; // the last day
}

export interface Query {
  model?: string;
  label?: string;
  favourite?: boolean;
  since?: string;
  until?: string;
  trash?: boolean;
}

/** The moment at which a calendar day begins here, `later` days after it; undefined for what is no day. */
function dayStart(day: string | undefined, later = 0): string | undefined {
  const found = /^(\d{4})-(\d{2})-(\d{2})$/.exec(day ?? "");
  if (!found) return undefined;
  const date = new Date(Number(found[1]), Number(found[2]) - 1, Number(found[3]) + later);
  return Number.isNaN(date.getTime()) ? undefined : date.toISOString();
}

export function queryOf(filters: Filters): Query {
  const since = dayStart(filters.since);
  const until = dayStart(filters.until, 1);
  return {
    ...(filters.model && { model: filters.model }),
    ...(filters.label && { label: filters.label }),
    ...(filters.view === "favourites" && { favourite: true }),
    ...(filters.view === "trash" && { trash: true }),
    ...(since && { since }),
    ...(until && { until }),
  };
}

/** How many filters are set, beside the view. */
export function filtersSet({ model, label, since, until }: Filters): number {
  return [model, label, since, until].filter(Boolean).length;
}

/** Where the ZIP of what is shown is; with `ids` only of those. */
export function zipUrl(filters: Filters, ids: readonly string[] = []): string {
  const query = new URLSearchParams(
    Object.entries(queryOf(filters)).map(([key, value]): [string, string] => [key, String(value)]),
  );
  for (const id of ids) query.append("id", id);
  const text = query.toString();
  return text ? `/v1/images.zip?${text}` : "/v1/images.zip";
}
