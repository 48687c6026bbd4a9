/** What was drawn before, newest first, and what is being drawn now; each can be hung on the wall again. */
import { Button } from "@mantine/core";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useRef } from "react";
import { useTranslation } from "react-i18next";
import type { Job } from "@/client/client";
import { IconPlay } from "@/components/icons";
import { ProblemNotice } from "@/components/ProblemNotice";
import { ago } from "@/lib/format";
import { taskName } from "@/lib/i18n/i18n";
import { HISTORY_KEY, listGenerations } from "../api/listGenerations";
import styles from "./Recent.module.css";

interface Props {
  current: string | null;
  labelsOf: (job: Job) => string;
  onOpen: (job: Job) => void;
  onFile: (file: File) => void;
}

const PAGE = 12;
const LOOK_AGAIN = 1000; // ms, while something is unfinished: one stream of events is for what is on the wall

const unfinished = (job: Job) => ["queued", "running", "canceling"].includes(job.status);

export function Recent({ current, labelsOf, onOpen, onFile }: Props) {
  const { t } = useTranslation();
  const chooser = useRef<HTMLInputElement>(null);
  const list = useInfiniteQuery({
    queryKey: HISTORY_KEY,
    queryFn: ({ pageParam }) => listGenerations(pageParam, PAGE),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor ?? null,
    refetchInterval: ({ state }) =>
      state.data?.pages.some((page) => page.items.some(unfinished)) ? LOOK_AGAIN : false,
  });
  const jobs = list.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <section aria-labelledby="recent-heading" className={styles.recent}>
      <div className={styles.head}>
        <h2 id="recent-heading">{t("history.heading")}</h2>
        <Button
          leftSection={<IconPlay size={15} />}
          onClick={() => chooser.current?.click()}
          size="xs"
          variant="subtle"
        >
          {t("history.from_file")}
        </Button>
        <input
          accept="image/png,image/webp"
          aria-label={t("history.from_file")}
          hidden
          onChange={(event) => {
            const [file] = event.currentTarget.files ?? [];
            if (file) onFile(file);
            event.currentTarget.value = "";
          }}
          ref={chooser}
          type="file"
        />
      </div>
      {list.isError && <ProblemNotice error={list.error} onRetry={() => list.refetch()} />}
      {list.isSuccess && jobs.length === 0 && <p className={styles.none}>{t("history.empty")}</p>}
      <ul className={styles.list}>
        {jobs.map((job) => (
          <li key={job.id}>
            <Entry current={job.id === current} job={job} labels={labelsOf(job)} onOpen={() => onOpen(job)} />
          </li>
        ))}
      </ul>
      {list.hasNextPage && (
        <Button
          loading={list.isFetchingNextPage}
          mt={20}
          onClick={() => list.fetchNextPage()}
          variant="default"
        >
          {t("history.more")}
        </Button>
      )}
    </section>
  );
}

interface EntryProps {
  job: Job;
  labels: string;
  current: boolean;
  onOpen: () => void;
}

function Entry({ job, labels, current, onOpen }: EntryProps) {
  const { t, i18n } = useTranslation();
  const when = ago(job.created_at, i18n.language);
  const shown = job.outputs.slice(0, 4);
  const live = unfinished(job);
  const percent = new Intl.NumberFormat(i18n.language, { style: "percent" }).format(job.progress.value);
  const status =
    job.status === "succeeded"
      ? ""
      : job.status === "running"
        ? t("history.status_running", { percent })
        : t(`history.status_${job.status}`);
  return (
    <button aria-current={current || undefined} className={styles.entry} onClick={onOpen} type="button">
      <span className={styles.collage} data-one={shown.length < 2 || undefined}>
        {shown.length === 0 && <span className={styles.nothing}>{status}</span>}
        {shown.map((output) => (
          <img
            alt=""
            data-crisp={output.width < 64 || undefined}
            height={64}
            key={output.id}
            loading="lazy"
            src={output.url}
            width={64}
          />
        ))}
        {live && (
          <span className={styles.bar}>
            <span style={{ transform: `scaleX(${job.progress.value})` }} />
          </span>
        )}
      </span>
      <span className="visually-hidden">{t("history.open")} </span>
      <span className={styles.labels}>{labels}</span>
      <span className={styles.facts}>
        {[
          ...(job.request.task === "generate" ? [] : [taskName(job.request.task)]),
          String(job.request.n),
          when,
          ...(status && shown.length > 0 ? [status] : []),
        ].join(" · ")}
      </span>
    </button>
  );
}
