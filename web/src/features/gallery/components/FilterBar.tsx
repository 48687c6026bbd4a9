/** What of the gallery is shown. On a phone the filters fold away. */
import { Button, Collapse, SegmentedControl, Select, TextInput } from "@mantine/core";
import { useDisclosure, useMediaQuery } from "@mantine/hooks";
import { useId } from "react";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { IconFilter } from "@/components/icons";
import { type Filters, filtersSet } from "../filters";
import styles from "./FilterBar.module.css";

interface Props {
  filters: Filters;
  models: Model[];
  onChange: (changes: Filters) => void;
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
        <TextInput
          aria-label={t("gallery.since")}
          leftSection={<span className={styles.inset}>{t("gallery.since_short")}</span>}
          leftSectionWidth={58}
          max={filters.until ?? today}
          onChange={(event) => onChange({ since: event.currentTarget.value || undefined })}
          type="date"
          value={filters.since ?? ""}
        />
        <TextInput
          aria-label={t("gallery.until")}
          leftSection={<span className={styles.inset}>{t("gallery.until_short")}</span>}
          leftSectionWidth={58}
          max={today}
          min={filters.since}
          onChange={(event) => onChange({ until: event.currentTarget.value || undefined })}
          type="date"
          value={filters.until ?? ""}
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

/** 2026-11-23, of this calendar. */
function localDay(date: Date): string {
  const two = (number: number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}
