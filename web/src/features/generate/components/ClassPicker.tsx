/** The classes of a model as chips with an example of each; none chosen means all, in turn. */
import { TextInput } from "@mantine/core";
import { type KeyboardEvent, useState } from "react";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import styles from "./ClassPicker.module.css";

interface Props {
  model: Model;
  selected: string[];
  onChange: (labels: string[]) => void;
}

const MANY = 16;

export function ClassPicker({ model, selected, onChange }: Props) {
  const { t } = useTranslation();
  const [find, setFind] = useState("");
  const wanted = find.trim().toLowerCase();
  const shown = model.classes.filter((name) => name.toLowerCase().includes(wanted));
  const crisp = Math.max(model.image.width, model.image.height) < 36;
  const toggle = (name: string, on: boolean) =>
    onChange(on ? [...selected, name] : selected.filter((other) => other !== name));
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // it would send the form, and draw every class
    const [only, another] = shown;
    if (only !== undefined && another === undefined && !selected.includes(only)) toggle(only, true);
  };
  return (
    <fieldset className={styles.group}>
      <legend className={styles.legend}>{t("recipe.classes")}</legend>
      <div className={styles.state}>
        <span aria-live="polite">
          {selected.length === 0
            ? t("recipe.classes_all")
            : t("recipe.classes_some", { count: selected.length })}
        </span>
        {selected.length > 0 && (
          <button className={styles.clear} onClick={() => onChange([])} type="button">
            {t("recipe.clear")}
          </button>
        )}
      </div>
      {model.classes.length > MANY && (
        <TextInput
          aria-label={t("recipe.find")}
          mb={10}
          onChange={(event) => setFind(event.currentTarget.value)}
          onKeyDown={onKeyDown}
          placeholder={t("recipe.find")}
          size="sm"
          type="search"
          value={find}
        />
      )}
      {shown.length === 0 && <p className={styles.none}>{t("recipe.none_found")}</p>}
      <div className={styles.chips} data-many={model.classes.length > MANY || undefined}>
        {shown.map((name) => {
          const example = model.urls.classes[model.classes.indexOf(name)];
          return (
            <label className={styles.chip} key={name}>
              <input
                checked={selected.includes(name)}
                className="visually-hidden"
                onChange={(event) => toggle(name, event.currentTarget.checked)}
                type="checkbox"
                value={name}
              />
              {example && (
                <img
                  alt=""
                  data-crisp={crisp || undefined}
                  draggable={false}
                  height={36}
                  src={example}
                  width={36}
                />
              )}
              <span>{name}</span>
            </label>
          );
        })}
      </div>
    </fieldset>
  );
}
