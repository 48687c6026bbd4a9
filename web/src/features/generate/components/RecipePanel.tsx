/** What to draw: classes, how many, the seed, the model's own controls; and the button. */
import { Button, NumberInput } from "@mantine/core";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { ProblemNotice } from "@/components/ProblemNotice";
import { SchemaForm } from "@/components/SchemaForm";
import { faultsOf, problemOf } from "@/lib/problem";
import { changesOf, defaultsOf } from "@/lib/schema";
import { controlsOf, type Draft, MOST_IMAGES } from "../draft";
import { ClassPicker } from "./ClassPicker";
import styles from "./RecipePanel.module.css";
import { SeedField } from "./SeedField";

interface Props {
  model: Model;
  draft: Draft;
  onChange: (draft: Draft) => void;
  onGenerate: () => void;
  sending: boolean;
  error: unknown;
  onDismiss: () => void;
}

/** Faults by control: "controls.guidance: at most 8" belongs under guidance. */
function faultsByControl(error: unknown, names: string[]): Record<string, string> {
  if (!error) return {};
  const faults: Record<string, string> = {};
  for (const { where, message } of faultsOf(problemOf(error)))
    for (const name of names)
      if (
        where.split(".").includes(name) ||
        message.startsWith(`controls.${name}`) ||
        message.startsWith(`${name}:`)
      )
        faults[name] = message.slice(message.indexOf(": ") + 1).trim();
  return faults;
}

const apple = /Mac|iPhone|iPad/.test(navigator.userAgent);

export function RecipePanel({ model, draft, onChange, onGenerate, sending, error, onDismiss }: Props) {
  const { t } = useTranslation();
  const fields = useMemo(() => controlsOf(model), [model]);
  const changed = Object.keys(changesOf(fields, draft.controls)).length > 0;
  const set = (changes: Partial<Draft>) => onChange({ ...draft, ...changes });
  return (
    <form
      aria-labelledby="recipe-heading"
      className={styles.panel}
      onSubmit={(event) => {
        event.preventDefault();
        onGenerate();
      }}
    >
      <h2 className="visually-hidden" id="recipe-heading">
        {t("recipe.heading")}
      </h2>
      <div className={styles.scroll}>
        {model.classes.length > 0 && (
          <ClassPicker model={model} onChange={(labels) => set({ labels })} selected={draft.labels} />
        )}
        <div className={styles.pair}>
          <NumberInput
            allowDecimal={false}
            allowNegative={false}
            className={styles.count}
            clampBehavior="blur"
            label={t("recipe.count")}
            max={MOST_IMAGES}
            min={1}
            onChange={(n) => typeof n === "number" && n >= 1 && set({ n: Math.min(MOST_IMAGES, n) })}
            value={draft.n}
          />
          <SeedField choice={draft} onChange={(choice) => set(choice)} />
        </div>
        {fields.length > 0 && (
          <section aria-labelledby="controls-heading">
            <div className={styles.head}>
              <h3 id="controls-heading">{t("recipe.controls")}</h3>
              {changed && (
                <button
                  className={styles.reset}
                  onClick={() => set({ controls: defaultsOf(fields) })}
                  type="button"
                >
                  {t("recipe.reset")}
                </button>
              )}
            </div>
            <SchemaForm
              faults={faultsByControl(
                error,
                fields.map(({ name }) => name),
              )}
              fields={fields}
              onChange={(name, value) => set({ controls: { ...draft.controls, [name]: value } })}
              values={draft.controls}
            />
          </section>
        )}
      </div>
      <div className={styles.act}>
        {error ? (
          <div className={styles.problem}>
            <ProblemNotice error={error} onDismiss={onDismiss} />
          </div>
        ) : null}
        <Button fullWidth loaderProps={{ type: "dots" }} loading={sending} size="md" type="submit">
          {t("recipe.generate")}
          <span aria-hidden="true" className={styles.hint}>
            {apple ? "⌘ ↵" : t("recipe.generate_hint")}
          </span>
        </Button>
      </div>
    </form>
  );
}
