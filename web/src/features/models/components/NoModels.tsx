/** Before the first model: the commands that make one. */
import { Button } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { PixelPicture } from "@/components/PixelPicture";
import styles from "./NoModels.module.css";

export function NoModels({ onRetry }: { onRetry: () => void }) {
  const { t } = useTranslation();
  const steps = [
    [t("models.empty_import"), "kartina data import PATH --name mine --size 32"],
    [t("models.empty_train"), "kartina train flow-32-cpu --data mine --budget 10m"],
    [t("models.empty_publish"), "kartina publish RUN --name mine"],
  ] as const;
  return (
    <section className={styles.empty}>
      <PixelPicture />
      <h1>{t("models.empty_title")}</h1>
      <p className={styles.lead}>{t("models.empty_lead")}</p>
      <ol>
        {steps.map(([text, command]) => (
          <li key={command}>
            {text}
            <code>{command}</code>
          </li>
        ))}
      </ol>
      <Button onClick={onRetry} variant="default">
        {t("models.empty_again")}
      </Button>
    </section>
  );
}
