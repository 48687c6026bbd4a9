/** A table that scrolls sideways in its own frame where the screen is narrow. */
import type { ReactNode } from "react";
import styles from "./WideTable.module.css";

export function WideTable({ label, children }: { label: string; children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard (WCAG 2.1.1)
    <section aria-label={label} className={styles.scroll} tabIndex={0}>
      <table className={styles.table}>{children}</table>
    </section>
  );
}
