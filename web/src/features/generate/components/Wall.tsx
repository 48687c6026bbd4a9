/** The pictures of one generation, from the first preview to the download; before any, examples of the classes. */
import { Button } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import type { Job, Model } from "@/client/client";
import { IconDownload, IconVary } from "@/components/icons";
import { ProblemNotice } from "@/components/ProblemNotice";
import { seconds } from "@/lib/format";
import { ProblemError } from "@/lib/problem";
import { cancelGeneration } from "../api/cancelGeneration";
import { controlsOf } from "../draft";
import { labelsText } from "../labels";
import { finished, type Watched } from "../progress";
import { remember } from "../useGeneration";
import { type Framed, Frames } from "./Frames";
import { Lightbox } from "./Lightbox";
import { RecipeMenu } from "./RecipeMenu";
import styles from "./Wall.module.css";

interface Props {
  watched: Watched;
  model: Model | undefined; // undefined: it was removed since
  onVary: (job: Job) => void;
  onUse: (job: Job) => void;
  onKeepSeed: (seed: number) => void;
  onSameNoise: (job: Job, label: string, seed: number) => void;
  onRetry: (job: Job) => void;
}

const MOST_CAPTIONS = 80;

export function Wall({ watched, model, onVary, onUse, onKeepSeed, onSameNoise, onRetry }: Props) {
  const { t } = useTranslation();
  const { job, previews } = watched;
  const [opened, setOpened] = useState<number | null>(null);
  const fields = useMemo(() => (model ? controlsOf(model) : []), [model]);
  const done = finished(job);
  const first = job.outputs[0];
  const natural = first ?? model?.image ?? { width: 32, height: 32 };
  const byIndex = new Map(job.outputs.map((output) => [output.index, output]));
  const pictures: Framed[] = [];
  for (let index = 0; index < job.request.n; index++) {
    const output = byIndex.get(index);
    if (!output && done) continue;
    const number = index + 1;
    const label =
      output?.label ??
      job.request.labels[index % Math.max(1, job.request.labels.length)] ??
      t("wall.unlabelled");
    const seed = output?.seed ?? job.request.seed + index;
    pictures.push({
      key: String(index),
      src: output?.url ?? previews[index] ?? null,
      caption: label,
      label: output ? t("wall.open", { number, label, seed }) : t("wall.pending", { number }),
      pending: !output,
      onOpen: output && (() => setOpened(index)),
    });
  }
  const title = labelsText(job.request.labels, model?.classes.length ?? 0, t);
  return (
    <section aria-labelledby="wall-heading" className={styles.wall}>
      <header className={styles.head}>
        <div className={styles.words}>
          <h2 id="wall-heading">{title}</h2>
          <Status job={job} live={watched.live} />
        </div>
        {done && job.outputs.length > 0 && (
          <div className={styles.actions}>
            <Button
              leftSection={<IconVary size={16} />}
              onClick={() => onVary(job)}
              size="sm"
              variant="default"
            >
              {t("wall.vary")}
            </Button>
            <RecipeMenu fields={fields} onUse={model && (() => onUse(job))} request={job.request} />
            <Button
              component="a"
              download
              href={job.urls.zip}
              leftSection={<IconDownload size={16} />}
              size="sm"
              variant="default"
            >
              {t("wall.zip")}
            </Button>
          </div>
        )}
        {!done && <Cancel job={job} />}
      </header>
      {!done && <Progress job={job} />}
      {job.error && <ProblemNotice error={new ProblemError(job.error)} onRetry={() => onRetry(job)} />}
      {job.status === "canceled" && job.outputs.length === 0 && (
        <p className={styles.nothing}>{t("wall.nothing")}</p>
      )}
      {!job.error && (
        <Frames
          captions={pictures.length <= MOST_CAPTIONS && job.request.labels.length > 1}
          label={t("wall.heading")}
          natural={natural}
          pictures={pictures}
        />
      )}
      <Lightbox
        job={job}
        model={model}
        onClose={() => setOpened(null)}
        onKeepSeed={(seed) => {
          setOpened(null);
          onKeepSeed(seed);
        }}
        onMove={setOpened}
        onSameNoise={(label, seed) => {
          setOpened(null);
          onSameNoise(job, label, seed);
        }}
        opened={opened}
      />
    </section>
  );
}

function Status({ job, live }: { job: Job; live: boolean }) {
  const { t, i18n } = useTranslation();
  const count = job.outputs.length;
  const share = new Intl.NumberFormat(i18n.language, { style: "percent" }).format(
    Math.floor(job.progress.value * 100) / 100,
  );
  const took = job.metrics.execution_ms;
  const text = {
    queued: job.queue_position ? t("wall.queued_at", { position: job.queue_position }) : t("wall.queued"),
    running: t("wall.running_share", { share }),
    canceling: t("wall.canceling"),
    canceled: t("wall.canceled"),
    failed: t("wall.failed"),
    succeeded:
      took == null
        ? t("wall.done_untimed", { count })
        : t("wall.done", { count, time: seconds(took, i18n.language) }),
  }[job.status];
  return (
    <>
      <p className={styles.status}>
        <span>{text}</span>
        <span>
          {t("recipe.seed").toLowerCase()} {job.request.seed}
        </span>
        <span>{job.request.model}</span>
      </p>
      <p aria-live="polite" className="visually-hidden">
        {job.status === "running" ? t("wall.running") : text}
      </p>
      {!live && !finished(job) && <p className={styles.slow}>{t("wall.slow_link")}</p>}
    </>
  );
}

function Progress({ job }: { job: Job }) {
  const { t } = useTranslation();
  const percent = Math.round(job.progress.value * 100);
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

function Cancel({ job }: { job: Job }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const cancel = useMutation({
    mutationFn: () => cancelGeneration(job.id),
    onSuccess: (found) => remember(client, found),
  });
  return (
    <Button
      disabled={job.status === "canceling"}
      loading={cancel.isPending}
      onClick={() => cancel.mutate()}
      size="sm"
      variant="default"
    >
      {t("wall.cancel")}
    </Button>
  );
}

interface ExamplesProps {
  model: Model;
}

/** Before the first generation: what each class looks like. */
export function Examples({ model }: ExamplesProps) {
  const { t } = useTranslation();
  const pictures = model.classes.flatMap((name, index): Framed[] => {
    const src = model.urls.classes[index];
    return src ? [{ key: name, src, caption: name, label: name, pending: false }] : [];
  });
  return (
    <section aria-labelledby="wall-heading" className={styles.wall}>
      <header className={styles.head}>
        <div className={styles.words}>
          <h2 id="wall-heading">{t("wall.empty_title", { name: model.name })}</h2>
          <p className={styles.status}>{t("wall.empty_lead")}</p>
        </div>
      </header>
      <div className={styles.examples}>
        <Frames captions label={t("wall.heading")} natural={model.image} pictures={pictures.slice(0, 30)} />
      </div>
    </section>
  );
}
