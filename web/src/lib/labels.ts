/** The classes of a request in few words. */
import type { TFunction } from "i18next";

export function labelsText(labels: readonly string[], classes: number, t: TFunction): string {
  if (labels.length === 0) return classes > 0 ? t("wall.all_classes") : t("wall.unlabelled_many");
  if (classes > 1 && labels.length >= classes) return t("wall.all_classes");
  const shown = labels.slice(0, 3).join(", ");
  return labels.length > 3 ? `${shown} ${t("wall.and_more", { count: labels.length - 3 })}` : shown;
}
