/** An answer: its status, its headers, and what it says, shows or brings. */
import { useEffect, useState } from "react";
import { useTranslation } from "react-i18next";
import { type Answer, MOST } from "../answer";
import styles from "./AnswerView.module.css";

interface Props {
  answer: Answer;
  took: number | null;
  busy: boolean;
  name: string; // of a file to save
  of: string; // the operation
}

export function AnswerView({ answer, took, busy, name, of }: Props) {
  const { t, i18n } = useTranslation("reference");
  const { status, headers, text, file, complete } = answer;
  const url = useAddress(file);
  const milliseconds = new Intl.NumberFormat(i18n.language, { maximumFractionDigits: 0 }).format(took ?? 0);
  return (
    <div className={styles.answer}>
      <p className={styles.status} role="status">
        <strong data-bad={status >= 400 || undefined}>{status}</strong> {t("took", { milliseconds })}
        {busy ? ` ${t("coming")}` : !complete && ` ${t("stopped")}`}
      </p>
      <details className={styles.headers}>
        <summary>{t("headers")}</summary>
        <dl>
          {headers.map(([header, value]) => (
            <div key={header}>
              <dt>{header}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </details>
      {text !== null && text !== "" && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard (WCAG 2.1.1)
        <section aria-label={`${t("answer")}: ${of}`} className={styles.text} tabIndex={0}>
          <pre>{text}</pre>
        </section>
      )}
      {text !== null && text.length === MOST && <p className={styles.note}>{t("beginning")}</p>}
      {file?.type.startsWith("image/") && url && <img alt={t("answer")} className={styles.image} src={url} />}
      {file && url && (
        <a download={name} href={url}>
          {t("save", { name })}
        </a>
      )}
      {complete && !text && file === null && <p className={styles.note}>{t("empty")}</p>}
    </div>
  );
}

/** An address of the file in this page. */
function useAddress(file: Blob | null): string | undefined {
  const [address, setAddress] = useState<string>();
  useEffect(() => {
    if (file === null) return setAddress(undefined);
    const made = URL.createObjectURL(file);
    setAddress(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  return address;
}
