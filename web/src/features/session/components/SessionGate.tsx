/** Lets the page in behind a session; without one, says how to get it. */
import { Button, Loader } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { PixelPicture } from "@/components/PixelPicture";
import { ProblemNotice } from "@/components/ProblemNotice";
import { getSession } from "../api/getSession";
import { openSession } from "../api/openSession";
import { arrive } from "../arrive";
import { SESSION_KEY } from "../key";
import { readToken } from "../token";
import styles from "./SessionGate.module.css";

const arrival = readToken(window.location.href); // kept in memory, so that a retry still has it

const door = {
  open: openSession,
  get: getSession,
  clean: (address: string) => window.history.replaceState(null, "", address),
};

export function SessionGate({ children }: { children: ReactNode }) {
  const { t } = useTranslation();
  const visit = useQuery({
    queryKey: SESSION_KEY,
    queryFn: () => arrive(arrival, door),
    staleTime: Number.POSITIVE_INFINITY,
    retry: false,
  });
  if (visit.isPending)
    return (
      <main className={styles.page} id="main" tabIndex={-1}>
        <Loader aria-label={t("app.loading")} color="var(--accent)" size="sm" type="dots" />
      </main>
    );
  if (visit.isError)
    return (
      <main className={styles.page} id="main" tabIndex={-1}>
        <ProblemNotice error={visit.error} onRetry={() => visit.refetch()} />
      </main>
    );
  if (visit.data.kind === "out")
    return <Outside onRetry={() => visit.refetch()} refused={visit.data.refused} />;
  return children;
}

function Outside({ refused, onRetry }: { refused: boolean; onRetry: () => void }) {
  const { t } = useTranslation();
  return (
    <main className={styles.page} id="main" tabIndex={-1}>
      <div className={styles.card}>
        <PixelPicture />
        <h1 className={styles.title}>{t("session.title")}</h1>
        <p className={styles.lead}>{refused ? t("session.used") : t("session.lead")}</p>
        <ol className={styles.steps}>
          <li>{t("session.step_find")}</li>
          <li>
            {t("session.step_open")}
            <code>{`${window.location.origin}/?token=…`}</code>
          </li>
          <li>
            {t("session.step_lost")}
            <code>kartina serve</code>
          </li>
        </ol>
        <Button onClick={onRetry} variant="default">
          {t("problem.retry")}
        </Button>
      </div>
    </main>
  );
}
