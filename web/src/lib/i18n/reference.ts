/** The texts of the API reference: they come with it, not with the page. */
import i18next from "i18next";
import en from "./reference.en.json";
import ru from "./reference.ru.json";

i18next.addResourceBundle("en", "reference", en);
i18next.addResourceBundle("ru", "reference", ru);

/** A group of operations, which the document calls by a word. */
export function groupName(group: string): string {
  return i18next.t(`group.${group as keyof typeof en.group}`, { ns: "reference" });
}
