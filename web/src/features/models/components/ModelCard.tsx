/** A model to pick: its samples, its name, and how good it is. */
import { useEffect, useId, useRef } from "react";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { IconCheck } from "@/components/icons";
import { ordered } from "../identity";
import { MetricButton } from "./MetricButton";
import styles from "./ModelCard.module.css";
import { SheetCover } from "./SheetCover";

interface Props {
  model: Model;
  selected: boolean;
  onSelect: () => void;
  onDetails: () => void;
}

export function ModelCard({ model, selected, onSelect, onDetails }: Props) {
  const { t } = useTranslation();
  const id = useId();
  const { width, height } = model.image;
  const card = useRef<HTMLLIElement>(null);
  useEffect(() => {
    const shelf = card.current?.parentElement;
    if (!selected || !shelf || !card.current) return;
    const { left, right } = card.current.getBoundingClientRect();
    const room = shelf.getBoundingClientRect();
    if (left < room.left || right > room.right) shelf.scrollLeft += left - room.left - 4; // only sideways
  }, [selected]);
  const numbers = ordered(model.metrics).slice(0, 4);
  return (
    <li className={styles.card} data-selected={selected || undefined} ref={card}>
      <label className={styles.pick}>
        <input
          aria-describedby={`${id}-facts`}
          aria-label={model.name}
          checked={selected}
          className="visually-hidden"
          name="model"
          onChange={onSelect}
          type="radio"
          value={model.ref}
        />
        {model.urls.samples ? (
          <SheetCover
            alt=""
            cell={{ width, height }}
            rows={model.classes.length || 1}
            src={model.urls.samples}
          />
        ) : (
          <span className={styles.blank} />
        )}
        <span aria-hidden="true" className={styles.check}>
          <IconCheck size={15} />
        </span>
        <span className={styles.head}>
          <span className={styles.name}>{model.name}</span>
          <span className={styles.version}>@{model.version}</span>
        </span>
        <span className={styles.facts} id={`${id}-facts`}>
          {[model.family, model.data.name, `${width} × ${height}`].join(" · ")}
        </span>
      </label>
      <button
        aria-label={t("models.details_of", { name: model.name })}
        className={styles.details}
        onClick={onDetails}
        type="button"
      >
        {t("models.details")}
      </button>
      <div className={styles.foot}>
        {numbers.length > 0 ? (
          numbers.map(([name, metric]) => <MetricButton key={name} metric={metric} name={name} />)
        ) : (
          <span className={styles.unmeasured}>{t("models.no_numbers")}</span>
        )}
      </div>
    </li>
  );
}
