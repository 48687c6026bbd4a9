/** How a generation stands, in words and as a bar. */
import { useTranslation } from "react-i18next";
import type { Job } from "@/client/client";
import { lasting, seconds, whole } from "@/lib/format";
import { finished, timeLeft, type Watched } from "../progress";
import styles from "./Wall.module.css";

export function Status({ watched }: { watched: Watched }) {
  const { t } = useTranslation();
  const { job, link } = watched;
  const text = useStatusText(watched);
  return (
    <>
      <p className={styles.status}>
        {text.map((part) => (
          <span key={part}>{part}</span>
        ))}
        <span>
          {t("recipe.seed").toLowerCase()} {job.request.seed}
        </span>
        <span>{job.request.model}</span>
      </p>
      <p aria-live="polite" className="visually-hidden">
        {job.status === "running" ? t("wall.running") : text.join(", ")}
      </p>
      {link !== "live" && (
        <p className={styles.link} data-away={link === "away" || undefined} role="status">
          {link === "away"
            ? t("wall.link_away", { count: job.outputs.length })
            : t("wall.link_back", { made: job.outputs.length, n: job.request.n })}
        </p>
      )}
    </>
  );
}

function useStatusText(watched: Watched): string[] {
  const { t, i18n } = useTranslation();
  const { job } = watched;
  const count = job.outputs.length;
  const took = job.metrics.execution_ms;
  const number = (value: number) => whole(value, i18n.language);
  switch (job.status) {
    case "queued":
      return [job.queue_position ? t("wall.queued_at", { position: job.queue_position }) : t("wall.queued")];
    case "running": {
      const { step, steps } = job.progress;
      const left = timeLeft(watched);
      return [
        steps > 0 ? t("wall.steps", { step: number(step), steps: number(steps) }) : t("wall.running"),
        ...(job.request.n > 1 ? [t("wall.made_of", { made: count, n: job.request.n })] : []),
        ...(left === null ? [] : [t("wall.left", { time: lasting(left, i18n.language) })]),
      ];
    }
    case "canceling":
      return [t("wall.canceling"), ...(count > 0 ? [t("wall.kept", { count })] : [])];
    case "canceled":
      return [t("wall.canceled"), ...(count > 0 ? [t("wall.kept", { count })] : [])];
    case "failed":
      return [t("wall.failed"), ...(count > 0 ? [t("wall.kept", { count })] : [])];
    case "expired":
      return [t("wall.expired"), ...(count > 0 ? [t("wall.kept", { count })] : [])];
    case "succeeded":
      return [
        took == null
          ? t("wall.done_untimed", { count })
          : t("wall.done", { count, time: seconds(took, i18n.language) }),
      ];
  }
}

/** A bar that keeps its place when there is nothing to tell, so that nothing moves at the end. */
export function Progress({ job }: { job: Job }) {
  const { t } = useTranslation();
  const percent = Math.round(job.progress.value * 100);
  if (finished(job)) return <div className={styles.progress} data-idle />;
  return (
    <div
      aria-label={t("wall.progress")}
      aria-valuemax={100}
      aria-valuemin={0}
      aria-valuenow={percent}
      className={styles.progress}
      role="progressbar"
    >
      <span style={{ transform: `scaleX(${percent / 100})` }} />
    </div>
  );
}
