/** Numbers, sizes and times for people, in the language of the page. */

export function decimal(value: number, language: string, digits?: number): string {
  const places = digits ?? (Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0);
  return new Intl.NumberFormat(language, {
    minimumFractionDigits: places,
    maximumFractionDigits: places,
  }).format(value);
}

export function whole(value: number, language: string): string {
  return new Intl.NumberFormat(language).format(value);
}

/** "± 0.01" when the interval is even about the value to the shown digits, else "0.90–0.95". */
export function interval(
  value: number,
  bounds: readonly number[] | null | undefined,
  language: string,
): string {
  const [low, high] = bounds ?? [];
  if (low === undefined || high === undefined) return "";
  const half = (high - low) / 2;
  const even = Math.abs((low + high) / 2 - value) <= 0.2 * half + 1e-9;
  const digits = half >= 1 ? 1 : half >= 0.01 ? 2 : 3;
  return even
    ? `± ${decimal(half, language, digits)}`
    : `${decimal(low, language)}–${decimal(high, language)}`;
}

/** How long it took: "<0.1 sec", "1.2 sec", "12 sec". */
export function seconds(milliseconds: number, language: string): string {
  const value = Math.max(milliseconds / 1000, 0.1);
  const text = new Intl.NumberFormat(language, {
    style: "unit",
    unit: "second",
    unitDisplay: "short",
    maximumFractionDigits: value < 10 ? 1 : 0,
  }).format(value);
  return milliseconds < 50 ? `<${text}` : text;
}

/** "3 minutes ago"; a date when it is longer than a week ago. */
export function ago(iso: string, language: string, now = Date.now()): string {
  const passed = (now - Date.parse(iso)) / 1000;
  if (passed > 7 * 86400)
    return new Intl.DateTimeFormat(language, { dateStyle: "medium" }).format(Date.parse(iso));
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  if (passed < 45) return relative.format(0, "second");
  if (passed < 3600) return relative.format(-Math.max(1, Math.round(passed / 60)), "minute");
  if (passed < 86400) return relative.format(-Math.round(passed / 3600), "hour");
  return relative.format(-Math.round(passed / 86400), "day");
}

/** "12 s", "3 min", "2 h": about how long. */
export function lasting(milliseconds: number, language: string): string {
  const value = Math.max(1, milliseconds / 1000);
  const [amount, unit] =
    value < 90 ? [value, "second"] : value < 5400 ? [value / 60, "minute"] : [value / 3600, "hour"];
  return new Intl.NumberFormat(language, {
    style: "unit",
    unit,
    unitDisplay: "short",
    maximumFractionDigits: 0,
  }).format(amount);
}

/** A day and a time of it. */
export function moment(iso: string, language: string): string {
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(
    Date.parse(iso),
  );
}
