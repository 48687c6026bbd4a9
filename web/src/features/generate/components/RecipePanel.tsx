/** What to draw: the task, its images, classes, how many, the seed, the model's own controls; and the button. */
import { Button, Select } from "@mantine/core";
import { useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { ProblemNotice } from "@/components/ProblemNotice";
import { NumberEntry, SchemaForm } from "@/components/SchemaForm";
import { taskAbout, taskName } from "@/lib/i18n/i18n";
import { faultsOf, problemOf } from "@/lib/problem";
import { changesOf, defaultsOf } from "@/lib/schema";
import { controlsOf, inputsOf, tasksOf } from "@/lib/tasks";
import { type Draft, lacking, MOST_IMAGES } from "../draft";
import type { Inputs } from "../useInputs";
import { ClassPicker } from "./ClassPicker";
import { ImageInputs } from "./ImageInputs";
import styles from "./RecipePanel.module.css";
import { SeedField } from "./SeedField";

interface Props {
  model: Model;
  task: string;
  onTask: (task: string) => void;
  draft: Draft;
  onChange: (draft: Draft) => void;
  inputs: Inputs;
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

export function RecipePanel(props: Props) {
  const { model, task, onTask, draft, onChange, inputs, onGenerate, sending, error, onDismiss } = props;
  const { t } = useTranslation();
  const [tried, setTried] = useState(false); // to generate without what is needed
  const fields = useMemo(() => controlsOf(model, task), [model, task]);
  const tasks = tasksOf(model);
  const kinds = inputsOf(model, task);
  const missing = lacking(model, task, draft);
  const changed = Object.keys(changesOf(fields, draft.controls)).length > 0;
  const set = (changes: Partial<Draft>) => onChange({ ...draft, ...changes });
  return (
    <form
      aria-labelledby="recipe-heading"
      className={styles.panel}
      onSubmit={(event) => {
        event.preventDefault();
        setTried(missing.length > 0);
        if (missing.length === 0) onGenerate();
      }}
    >
      <h2 className="visually-hidden" id="recipe-heading">
        {t("recipe.heading")}
      </h2>
      <div className={styles.scroll}>
        {tasks.length > 1 && (
          <Select
            allowDeselect={false}
            data={tasks.map((value) => ({ value, label: taskName(value) }))}
            description={taskAbout(task)}
            inputWrapperOrder={["label", "input", "description"]}
            label={t("recipe.task")}
            onChange={(value) => {
              setTried(false);
              if (value) onTask(value);
            }}
            value={task}
          />
        )}
        {kinds.length > 0 && (
          <ImageInputs
            given={draft.inputs}
            inputs={inputs}
            kinds={kinds}
            missing={tried ? missing : []}
            onRemove={(kind) => {
              const rest = { ...draft.inputs };
              delete rest[kind];
              if (kind === "image") delete rest.mask; // it was painted over this image
              set({ inputs: rest });
            }}
          />
        )}
        {model.classes.length > 0 && (
          <ClassPicker model={model} onChange={(labels) => set({ labels })} selected={draft.labels} />
        )}
        <div className={styles.pair}>
          <NumberEntry
            allowDecimal={false}
            allowNegative={false}
            className={styles.count}
            clampBehavior="blur"
            label={t("recipe.count")}
            max={MOST_IMAGES}
            min={1}
            onChange={(n) => n !== null && n >= 1 && set({ n: Math.min(MOST_IMAGES, n) })}
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
