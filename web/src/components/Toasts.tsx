/** Shows the toasts: politely announced, and gone after a while, but not from under a pointer or the focus. */
import { useHotkeys } from "@mantine/hooks";
import { useEffect, useState, useSyncExternalStore } from "react";
import { useTranslation } from "react-i18next";
import { anyLayout } from "@/lib/keys";
import { IconClose } from "./icons";
import styles from "./Toasts.module.css";
import { dismiss, onToasts, readToasts, type Toast } from "./toast";

const LIFE = 10_000; // ms

export function Toasts() {
  const toasts = useSyncExternalStore(onToasts, readToasts);
  const undo = () => {
    const newest = toasts.findLast((one) => one.action);
    if (!newest) return;
    newest.action?.run();
    dismiss(newest.id);
  };
  useHotkeys(anyLayout("mod+Z", undo));
  return (
    <div aria-live="polite" className={styles.region} role="status">
      {toasts.map((one) => (
        <Entry key={one.id} toast={one} />
      ))}
    </div>
  );
}

function Entry({ toast }: { toast: Toast }) {
  const { t } = useTranslation();
  const [held, setHeld] = useState(false);
  useEffect(() => {
    if (held) return;
    const timer = setTimeout(() => dismiss(toast.id), LIFE);
    return () => clearTimeout(timer);
  }, [held, toast.id]);
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: only waits while it is read
    <div
      className={styles.toast}
      data-bad={toast.bad || undefined}
      onBlur={() => setHeld(false)}
      onFocus={() => setHeld(true)}
      onMouseEnter={() => setHeld(true)}
      onMouseLeave={() => setHeld(false)}
    >
      <span className={styles.text}>{toast.text}</span>
      {toast.action && (
        <button
          className={styles.action}
          onClick={() => {
            toast.action?.run();
            dismiss(toast.id);
          }}
          type="button"
        >
          {toast.action.label}
        </button>
      )}
      <button
        aria-label={t("problem.dismiss")}
        className={styles.close}
        onClick={() => dismiss(toast.id)}
        type="button"
      >
        <IconClose size={16} />
      </button>
    </div>
  );
}
