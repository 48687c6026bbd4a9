/** Languages of the page: chosen by the person, else by the browser. A control's own text comes from its schema. */
import i18next from "i18next";
import { initReactI18next } from "react-i18next";
import controlsRu from "./controls.ru.json";
import en from "./en.json";
import problemsRu from "./problems.ru.json";
import type reference from "./reference.en.json";
import ru from "./ru.json";

declare module "i18next" {
  interface CustomTypeOptions {
    defaultNS: "translation";
    resources: { translation: typeof en; reference: typeof reference }; // reference.ts adds the second
  }
}

export const LANGUAGES = ["en", "ru"] as const;
export type Language = (typeof LANGUAGES)[number];

const STORE = "kartina-language";

function preferred(): Language {
  let chosen: string | null = null;
  try {
    chosen = localStorage.getItem(STORE);
  } catch {
    // Storage is off: follow the browser.
  }
  if (chosen === "en" || chosen === "ru") return chosen;
  return navigator.language.toLowerCase().startsWith("ru") ? "ru" : "en";
}

export function setLanguage(language: Language): void {
  try {
    localStorage.setItem(STORE, language);
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
  void i18next.changeLanguage(language);
}

i18next.on("languageChanged", (language) => {
  document.documentElement.lang = language;
});

void i18next.use(initReactI18next).init({
  lng: preferred(),
  fallbackLng: "en",
  resources: { en: { translation: en }, ru: { translation: ru } },
  interpolation: { escapeValue: false }, // React escapes
  initAsync: false,
});

const CONTROLS: Partial<Record<string, Record<string, { title: string; description: string }>>> = {
  ru: controlsRu,
};

/** A control's title and description in the page's language where there is one, else as its schema says. */
export function controlText(
  field: { name: string; title: string; description: string },
  language: string,
): { title: string; description: string } {
  return CONTROLS[language]?.[field.name] ?? field;
}

const PROBLEMS: Partial<Record<string, Record<string, string>>> = { ru: problemsRu };

/** A problem's title in the page's language where there is one, else as the service says it. */
export function problemTitle(problem: { code: string; title: string }, language: string): string {
  return PROBLEMS[language]?.[problem.code] ?? problem.title;
}

export const yesNo = (value: boolean): string => i18next.t(value ? "value.yes" : "value.no");

const METRICS: Record<string, string> = en.metric;

export function metricName(name: string, short = false): string {
  const exists = name in METRICS;
  if (short && i18next.exists(`metric_short.${name}`))
    return i18next.t(`metric_short.${name}` as "metric_short.fd");
  return exists ? i18next.t(`metric.${name}` as "metric.fd") : name.replaceAll("_", " ");
}

export function metricAbout(name: string): string {
  return i18next.exists(`metric_about.${name}`) ? i18next.t(`metric_about.${name}` as "metric_about.fd") : "";
}

/** A task's name: known ones in the page's language, a family's own ones made readable. */
export function taskName(name: string): string {
  if (i18next.exists(`task.${name}`)) return i18next.t(`task.${name}` as "task.generate");
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function taskAbout(name: string): string {
  return i18next.exists(`task_about.${name}`) ? i18next.t(`task_about.${name}` as "task_about.generate") : "";
}
