/** A problem told in place: what was found, what was expected, what to do; with a way to try again. */
import { useTranslation } from "react-i18next";
import { problemTitle } from "@/lib/i18n/i18n";
import { faultsOf, problemOf } from "@/lib/problem";
import { IconAlert } from "./icons";
import styles from "./ProblemNotice.module.css";

interface Props {
  error: unknown;
  onRetry?: (() => void) | undefined;
  onDismiss?: (() => void) | undefined;
}

export function ProblemNotice({ error, onRetry, onDismiss }: Props) {
  const { t, i18n } = useTranslation();
  const problem = problemOf(error);
  const offline = problem.code === "offline";
  const title = offline
    ? t("problem.offline")
    : problem.code === "page"
      ? t("problem.page")
      : problemTitle(problem, i18n.language);
  return (
    <div className={styles.notice} role="alert">
      <span className={styles.icon}>
        <IconAlert />
      </span>
      <div className={styles.body}>
        <p className={styles.title}>{title}</p>
        <p className={styles.detail}>{offline ? t("problem.offline_detail") : problem.detail}</p>
        {faultsOf(problem).length > 0 && (
          <ul className={styles.faults}>
            {faultsOf(problem).map(({ where, message }) => (
              <li key={where + message}>
                {where && <code>{where}</code>} {message}
              </li>
            ))}
          </ul>
        )}
        {problem.request_id && (
          <p className={styles.id}>{t("problem.request", { id: problem.request_id })}</p>
        )}
        {(onRetry || onDismiss) && (
          <p className={styles.actions}>
            {onRetry && (
              <button onClick={onRetry} type="button">
                {t("problem.retry")}
              </button>
            )}
            {onDismiss && (
              <button onClick={onDismiss} type="button">
                {t("problem.dismiss")}
              </button>
            )}
          </p>
        )}
      </div>
    </div>
  );
}
