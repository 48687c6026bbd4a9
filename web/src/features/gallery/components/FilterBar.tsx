/** What of the gallery is shown. On a phone the filters fold away. */
import { Button, Collapse, SegmentedControl, Select, TextInput } from "@mantine/core";
import { useDisclosure, useMediaQuery } from "@mantine/hooks";
import { useEffect, useId, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { IconFilter } from "@/components/icons";
import { type Filters, filtersSet } from "../filters";
import styles from "./FilterBar.module.css";

interface Props {
  filters: Filters;
  models: Model[];
  onChange: (changes: Filters, replace?: boolean) => void;
}

const VIEWS = ["all", "favourites", "trash"] as const;

export function FilterBar({ filters, models, onChange }: Props) {
  const { t } = useTranslation();
  const id = useId();
  const narrow = useMediaQuery("(max-width: 760px)", false, { getInitialValueInEffect: false });
  const set = filtersSet(filters);
  const [open, { toggle }] = useDisclosure(set > 0);
  const view = VIEWS.find((name) => name === filters.view) ?? "all";
  return (
    <div className={styles.bar}>
      <SegmentedControl
        aria-label={t("gallery.view")}
        className={styles.views}
        data={VIEWS.map((value) => ({ value, label: t(`gallery.view_${value}`) }))}
        onChange={(value) => onChange({ view: value === "all" ? undefined : value })}
        value={view}
      />
      {narrow && (
        <Button
          aria-controls={id}
          aria-expanded={open}
          leftSection={<IconFilter size={16} />}
          onClick={toggle}
          size="sm"
          variant="default"
        >
          {set > 0 ? t("gallery.filters_set", { count: set }) : t("gallery.filters")}
        </Button>
      )}
      <Collapse expanded={!narrow || open} id={id}>
        <Fields filters={filters} models={models} onChange={onChange} set={set} />
      </Collapse>
    </div>
  );
}

function Fields({ filters, models, onChange, set }: Props & { set: number }) {
  const { t } = useTranslation();
  const some = models.filter(({ ref }) => filters.model === undefined || ref === filters.model);
  const classes = new Set(some.flatMap((model) => model.classes));
  if (filters.label) classes.add(filters.label);
  const refs = new Set(models.map(({ ref }) => ref));
  if (filters.model) refs.add(filters.model); // of a model that was removed since
  const today = localDay(new Date());
  return (
    <div className={styles.fields}>
      <Select
        aria-label={t("gallery.model")}
        clearable
        clearButtonProps={{ "aria-label": t("gallery.clear_named", { name: t("gallery.model") }) }}
        data={[...refs]}
        onChange={(model) => onChange({ model: model ?? undefined, label: undefined })}
        placeholder={t("gallery.any_model")}
        searchable
        value={filters.model ?? null}
      />
      <Select
        aria-label={t("gallery.label")}
        clearable
        clearButtonProps={{ "aria-label": t("gallery.clear_named", { name: t("gallery.label") }) }}
        data={[...classes].toSorted((a, b) => a.localeCompare(b))}
        limit={200}
        nothingFoundMessage={t("recipe.none_found")}
        onChange={(label) => onChange({ label: label ?? undefined })}
        placeholder={t("gallery.any_label")}
        searchable
        value={filters.label ?? null}
      />
      <div className={styles.days}>
        <Day
          day={filters.since}
          max={filters.until ?? today}
          name={t("gallery.since")}
          onDay={(since, replace) => onChange({ since }, replace)}
          short={t("gallery.since_short")}
        />
        <Day
          day={filters.until}
          max={today}
          min={filters.since}
          name={t("gallery.until")}
          onDay={(until, replace) => onChange({ until }, replace)}
          short={t("gallery.until_short")}
        />
      </div>
      {set > 0 && (
        <Button
          onClick={() => onChange({ model: undefined, label: undefined, since: undefined, until: undefined })}
          size="sm"
          variant="subtle"
        >
          {t("gallery.clear")}
        </Button>
      )}
    </div>
  );
}

interface DayProps {
  day: string | undefined;
  name: string;
  short: string;
  min?: string | undefined;
  max: string;
  onDay: (day: string | undefined, replace: boolean) => void;
}

/** A day as it is typed, of which the address is told once it is whole: it comes after the typing, and sets it back. */
function Day({ day, name, short, min, max, onDay }: DayProps) {
  const [typed, setTyped] = useState<string | null>(null); // null: nobody types
  const asked = useRef<(string | undefined)[]>([]); // what the address was told of since the field has the focus
  const rest = () => {
    asked.current = [];
    setTyped(null);
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: only an address that others changed ends the typing
  useEffect(() => {
    if (!asked.current.includes(day)) rest();
  }, [day]);
  return (
    <TextInput
      aria-label={name}
      leftSection={<span className={styles.inset}>{short}</span>}
      leftSectionWidth={58}
      max={max}
      min={min}
      onBlur={rest}
      onChange={(event) => {
        const { value, validity } = event.currentTarget;
        setTyped(value);
        if (value === "" ? validity.badInput : value < "1000") return; // half a day, or a year's first digits
        onDay(value || undefined, asked.current.length > 0);
        asked.current.push(value || undefined);
      }}
      type="date"
      value={typed ?? day ?? ""}
    />
  );
}

/** 2026-11-23, of this calendar. */
function localDay(date: Date): string {
  const two = (number: number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}
