/** All models as cards, one chosen; the drawer of the one that was asked about. */
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { ModelCard } from "./ModelCard";
import { ModelDrawer } from "./ModelDrawer";
import styles from "./ModelShelf.module.css";

interface Props {
  models: Model[];
  selected: Model;
  onSelect: (model: Model) => void;
}

export function ModelShelf({ models, selected, onSelect }: Props) {
  const { t } = useTranslation();
  const [asked, setAsked] = useState<Model | null>(null);
  const [open, setOpen] = useState(false);
  return (
    <section aria-labelledby="models-heading">
      <h2 className={styles.heading} id="models-heading">
        {t("models.heading")}
      </h2>
      <fieldset className={styles.group}>
        <legend className="visually-hidden">{t("models.choose")}</legend>
        <ul
          className={styles.shelf}
          data-few={models.length < 3 || undefined}
          data-many={models.length > 3 || undefined}
        >
          {models.map((model) => (
            <ModelCard
              key={model.ref}
              model={model}
              onDetails={() => {
                setAsked(model);
                setOpen(true);
              }}
              onSelect={() => onSelect(model)}
              selected={model.ref === selected.ref}
            />
          ))}
        </ul>
      </fieldset>
      <ModelDrawer model={asked} onClose={() => setOpen(false)} opened={open} />
    </section>
  );
}
