/** A quality number that explains itself: press it for its interval, what real images score, and how it was measured. */
import { Popover } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { Metric } from "@/client/client";
import { decimal, interval } from "@/lib/format";
import { metricAbout, metricName } from "@/lib/i18n/i18n";
import { entries } from "../identity";
import styles from "./MetricButton.module.css";

export function MetricButton({ name, metric }: { name: string; metric: Metric }) {
  const { t, i18n } = useTranslation();
  const value = decimal(metric.value, i18n.language);
  const spread = interval(metric.value, metric.interval, i18n.language);
  return (
    <Popover
      position="bottom-start"
      returnFocus
      shadow="md"
      trapFocus
      width={320}
      withArrow={false}
      withinPortal
    >
      <Popover.Target>
        <button className={styles.button} type="button">
          <span className={styles.value}>{value}</span>
          <span className={styles.name}>{metricName(name, true)}</span>
          <span className="visually-hidden">{t("quality.explain")}</span>
        </button>
      </Popover.Target>
      <Popover.Dropdown aria-label={metricName(name)} className={styles.about} data-autofocus tabIndex={-1}>
        <p className={styles.title}>{metricName(name)}</p>
        <p className={styles.line}>
          <strong>{value}</strong> {spread && t("quality.interval", { interval: spread })}
        </p>
        {metric.floor != null && (
          <p className={styles.line}>{t("quality.real", { value: decimal(metric.floor, i18n.language) })}</p>
        )}
        <p className={styles.text}>{metricAbout(name)}</p>
        {entries(metric.identity).length > 0 && (
          <>
            <p className={styles.caption}>{t("quality.measured")}</p>
            <dl className={styles.identity}>
              {entries(metric.identity).map(([key, text]) => (
                <div key={key}>
                  <dt>{key}</dt>
                  <dd>{text}</dd>
                </div>
              ))}
            </dl>
          </>
        )}
      </Popover.Dropdown>
    </Popover>
  );
}
