/** Before the first generation: what each class of a model looks like. */
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { type Framed, Frames } from "./Frames";
import styles from "./Wall.module.css";

const MOST = 30;

export function Examples({ model, task }: { model: Model; task: string }) {
  const { t } = useTranslation();
  const pictures = model.classes.flatMap((name, index): Framed[] => {
    const src = model.urls.classes[index];
    return src ? [{ key: name, src, caption: name, label: name, pending: false }] : [];
  });
  const some = pictures.length > 0;
  return (
    <section aria-labelledby="wall-heading" className={styles.wall}>
      <header className={styles.head}>
        <div className={styles.words}>
          <h2 id="wall-heading">{t("wall.empty_title", { name: model.name })}</h2>
          <p className={styles.status}>
            {task === "generate"
              ? some
                ? t("wall.empty_lead")
                : t("wall.empty_sheet")
              : t("wall.empty_image")}
          </p>
        </div>
      </header>
      {some ? (
        <div className={styles.examples}>
          <Frames
            captions
            count={Math.min(MOST, pictures.length)}
            label={t("wall.examples")}
            natural={model.image}
            pictures={pictures.slice(0, MOST)}
          />
        </div>
      ) : (
        model.urls.samples && (
          <img
            alt={t("models.sheet_of", { name: model.name })}
            className={styles.sheet}
            data-crisp={model.image.width < 48 || undefined}
            src={model.urls.samples}
          />
        )
      )}
    </section>
  );
}
