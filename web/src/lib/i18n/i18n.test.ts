import { describe, expect, it } from "vitest";
import en from "./en.json";
import { controlText, metricName, problemTitle } from "./i18n";
import referenceEn from "./reference.en.json";
import referenceRu from "./reference.ru.json";
import ru from "./ru.json";

const PLURAL = /_(zero|one|two|few|many|other)$/;

function keys(tree: object, prefix = ""): string[] {
  return Object.entries(tree).flatMap(([name, value]) =>
    typeof value === "string" ? [`${prefix}${name}`] : keys(value, `${prefix}${name}.`),
  );
}
const stems = (tree: object) => [...new Set(keys(tree).map((key) => key.replace(PLURAL, "")))].sort();

function placeholders(tree: object): Record<string, string[]> {
  const found: Record<string, Set<string>> = {};
  const visit = (node: object, prefix: string) => {
    for (const [name, value] of Object.entries(node)) {
      if (typeof value !== "string") visit(value, `${prefix}${name}.`);
      else {
        const key = `${prefix}${name}`.replace(PLURAL, "");
        found[key] ??= new Set();
        for (const [, inner = ""] of value.matchAll(/\{\{(\w+)\}\}/g)) found[key].add(inner);
      }
    }
  };
  visit(tree, "");
  return Object.fromEntries(Object.entries(found).map(([key, set]) => [key, [...set].sort()]));
}

describe.each([
  ["the page", en, ru],
  ["the API reference", referenceEn, referenceRu],
])("translations of %s", (_, english, russian) => {
  it("have the same texts in both languages", () => {
    expect(stems(russian)).toEqual(stems(english));
  });

  it("fill the same places in", () => {
    expect(placeholders(russian)).toEqual(placeholders(english));
  });

  it("have every Russian plural", () => {
    for (const key of keys(russian).filter((name) => name.endsWith("_one"))) {
      const stem = key.replace(PLURAL, "");
      for (const form of ["few", "many", "other"]) expect(keys(russian)).toContain(`${stem}_${form}`);
    }
  });
});

describe("names", () => {
  it("translate known controls and leave others as their schema says", () => {
    const guidance = { name: "guidance", title: "Guidance", description: "" };
    expect(controlText(guidance, "ru").title).toBe("Наведение");
    expect(controlText(guidance, "en").title).toBe("Guidance");
    expect(controlText({ name: "psi", title: "Psi", description: "d" }, "ru").title).toBe("Psi");
  });

  it("name known metrics and make others readable", () => {
    expect(metricName("class_agreement")).toBe("Class agreement");
    expect(metricName("class_agreement", true)).toBe("agreement");
    expect(metricName("edge_score")).toBe("edge score");
  });
});

describe("problems", () => {
  it("have a title in the page's language where there is one, else the service's", () => {
    expect(problemTitle({ code: "queue_full", title: "The queue is full" }, "ru")).toBe("Очередь заполнена");
    expect(problemTitle({ code: "queue_full", title: "The queue is full" }, "en")).toBe("The queue is full");
    expect(problemTitle({ code: "of_tomorrow", title: "New" }, "ru")).toBe("New");
  });
});
