/** Controls of a task, drawn from its JSON Schema: one row a field, the description under it. */
import {
  NumberInput,
  type NumberInputProps,
  SegmentedControl,
  Select,
  Slider,
  Switch,
  TextInput,
} from "@mantine/core";
import { useId, useState } from "react";
import { useTranslation } from "react-i18next";
import { controlText } from "@/lib/i18n/i18n";
import type { ChoiceField, Field, NumberField, Values } from "@/lib/schema";
import styles from "./SchemaForm.module.css";

interface RowProps<F extends Field> {
  field: F;
  value: unknown;
  onChange: (value: unknown) => void;
  label: string;
  describedBy: string | undefined;
}

/** What was typed as a number that is sent as it is shown; undefined where it is none. */
function numberOf(text: string | number, decimal: boolean): number | undefined {
  const number = text === "" ? Number.NaN : Number(text);
  return (decimal ? Number.isFinite(number) : Number.isSafeInteger(number)) ? number : undefined;
}

interface EntryProps extends Omit<NumberInputProps, "value" | "onChange" | "onBlur" | "onKeyDown"> {
  value: number | null;
  onChange: (value: number | null) => void; // null: nothing is there
}

/** A number, shown as it is typed until it is left or sent: then it is what is used. */
export function NumberEntry({ value, onChange, ...rest }: EntryProps) {
  const [text, setText] = useState<string | number | null>(null); // null: the value is shown
  return (
    <NumberInput
      {...rest}
      onBlur={() => setText(null)}
      onChange={(next) => {
        setText(next);
        const number = numberOf(next, rest.allowDecimal ?? true);
        if (next === "") onChange(null);
        else if (number !== undefined) onChange(number);
      }}
      onKeyDown={(event) => event.key === "Enter" && setText(null)}
      value={text ?? value ?? ""}
    />
  );
}

const MOST_STOPS = 10_000; // of a slider: with more, a value could not be met

function NumberRow({ field, value, onChange, label, describedBy }: RowProps<NumberField>) {
  const { t } = useTranslation();
  const { min, max, step } = field;
  const number = typeof value === "number" ? value : null;
  const slides = min !== undefined && max !== undefined && (max - min) / step <= MOST_STOPS;
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return (
    <div className={styles.number}>
      {slides && (
        <Slider
          aria-describedby={describedBy}
          className={styles.slider}
          label={null}
          max={max}
          min={min}
          onChange={(next) => onChange(Number(next.toFixed(places)))}
          size={3}
          step={step}
          thumbLabel={label}
          thumbSize={16}
          value={number ?? min}
        />
      )}
      <NumberEntry
        allowDecimal={field.kind === "number"}
        aria-describedby={describedBy}
        aria-label={label}
        className={slides ? styles.entry : styles.wide}
        clampBehavior="blur"
        decimalScale={field.kind === "integer" ? 0 : 6}
        hideControls={slides}
        onChange={(next) => (next !== null || field.nullable) && onChange(next)}
        placeholder={field.nullable ? t("recipe.auto_short") : ""}
        size="xs"
        step={step}
        value={number}
        {...(min !== undefined && { min })}
        {...(max !== undefined && { max })}
      />
    </div>
  );
}

const CHANCE = "\u0000auto"; // stands for null among the options

function ChoiceRow({ field, value, onChange, label, describedBy }: RowProps<ChoiceField>) {
  const { t } = useTranslation();
  const data = field.options.map((option) => ({ value: String(option), label: String(option) }));
  if (field.nullable) data.unshift({ value: CHANCE, label: t("recipe.auto") });
  const chosen = value === null || value === undefined ? CHANCE : String(value);
  const choose = (next: string | null) =>
    onChange(field.options.find((option) => String(option) === next) ?? null);
  const letters = data.reduce((sum, option) => sum + option.label.length, 0);
  if (data.length <= 4 && letters <= 28)
    return (
      <SegmentedControl
        aria-describedby={describedBy}
        aria-label={label}
        data={data}
        fullWidth
        onChange={choose}
        size="xs"
        value={chosen}
      />
    );
  return (
    <Select
      allowDeselect={false}
      aria-describedby={describedBy}
      aria-label={label}
      data={data}
      onChange={choose}
      size="xs"
      value={chosen}
    />
  );
}

interface Props {
  fields: Field[];
  values: Values;
  onChange: (name: string, value: unknown) => void;
  faults?: Record<string, string>;
}

export function SchemaForm({ fields, values, onChange, faults = {} }: Props) {
  return (
    <div className={styles.form}>
      {fields.map((field) => (
        <FieldRow
          fault={faults[field.name]}
          field={field}
          key={field.name}
          onChange={(value) => onChange(field.name, value)}
          value={field.name in values ? values[field.name] : field.default}
        />
      ))}
    </div>
  );
}

interface FieldRowProps {
  field: Field;
  value: unknown;
  onChange: (value: unknown) => void;
  fault: string | undefined;
}

function FieldRow({ field, value, onChange, fault }: FieldRowProps) {
  const { t, i18n } = useTranslation();
  const id = useId();
  const { title, description } = controlText(field, i18n.language);
  const describedBy = description || fault ? `${id}-about` : undefined;
  const row = { value, onChange, label: title, describedBy };
  const about = (description || fault) && (
    <p className={styles.about} id={describedBy}>
      {fault && <span className={styles.fault}>{fault} </span>}
      {description}
    </p>
  );
  if (field.kind === "switch")
    return (
      <div className={styles.field}>
        <Switch
          aria-describedby={describedBy}
          checked={value === true}
          classNames={{ body: styles.switchBody ?? "" }}
          label={title}
          labelPosition="left"
          onChange={(event) => onChange(event.currentTarget.checked)}
          size="sm"
        />
        {about}
      </div>
    );
  return (
    <div className={styles.field}>
      <div className={styles.title}>{title}</div>
      {(field.kind === "number" || field.kind === "integer") && <NumberRow field={field} {...row} />}
      {field.kind === "choice" && <ChoiceRow field={field} {...row} />}
      {field.kind === "text" && (
        <TextInput
          aria-describedby={describedBy}
          aria-label={title}
          onChange={(event) => onChange(event.currentTarget.value)}
          size="xs"
          value={typeof value === "string" ? value : ""}
        />
      )}
      {field.kind === "other" && <p className={styles.about}>{t("recipe.api_only")}</p>}
      {about}
    </div>
  );
}
