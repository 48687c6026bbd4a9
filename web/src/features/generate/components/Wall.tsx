/** The pictures of one generation, from the first placeholder to the download. */
import { Button } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Job, Model, OutputImage } from "@/client/client";
import { IconDownload } from "@/components/icons";
import { ProblemNotice } from "@/components/ProblemNotice";
import { RecipeMenu } from "@/components/RecipeMenu";
import { taskName } from "@/lib/i18n/i18n";
import { labelsText } from "@/lib/labels";
import { ProblemError } from "@/lib/problem";
import { controlsOf } from "@/lib/tasks";
import { cancelGeneration } from "../api/cancelGeneration";
import type { Wish } from "../api/createGeneration";
import { finished, type Watched } from "../progress";
import { remember } from "../useGeneration";
import { type Framed, Frames } from "./Frames";
import { Lightbox } from "./Lightbox";
import { Sources } from "./Sources";
import { Progress, Status } from "./Status";
import { VaryMenu } from "./VaryMenu";
import styles from "./Wall.module.css";

export interface WallActions {
  onVary: (job: Job, changes: Partial<Wish>) => void;
  onUse: (job: Job) => void;
  onKeepSeed: (seed: number) => void;
  onStartFrom: (output: OutputImage) => void;
}

interface Props extends WallActions {
  watched: Watched;
  model: Model | undefined; // undefined: it was removed since
}

const MOST_CAPTIONS = 80;
const NEIGHBOURS = 4; // on each side

export function Wall({ watched, model, onVary, onUse, onKeepSeed, onStartFrom }: Props) {
  const { t } = useTranslation();
  const { job, previews } = watched;
  const [opened, setOpened] = useState<number | null>(null);
  const { request } = job;
  const fields = controlsOf(model, request.task);
  const done = finished(job);
  const first = job.outputs[0];
  const natural = first ?? model?.image ?? { width: 32, height: 32 };
  const labels = request.labels.length > 0 ? request.labels : (model?.classes ?? []);
  const byIndex = new Map(job.outputs.map((output) => [output.index, output]));
  const pictures: Framed[] = [];
  for (let index = 0; index < request.n; index++) {
    const output = byIndex.get(index);
    if (!output && done) continue;
    const number = index + 1;
    const label = output?.label ?? labels[index % Math.max(1, labels.length)] ?? t("wall.unlabelled");
    const seed = output?.seed ?? request.seed + index;
    pictures.push({
      key: String(index),
      src: output?.url ?? null,
      preview: previews[index] ?? null,
      caption: label,
      label: output ? t("wall.open", { number, label, seed }) : t("wall.pending", { number }),
      pending: !output,
      onOpen: output && (() => setOpened(index)),
    });
  }
  const title = labelsText(request.labels, model?.classes.length ?? 0, t);
  const close = () => setOpened(null);
  return (
    <section aria-labelledby="wall-heading" className={styles.wall}>
      <header className={styles.head}>
        <div className={styles.words}>
          <h2 id="wall-heading">
            {request.task === "generate" ? title : `${taskName(request.task)}: ${title}`}
          </h2>
          <Status watched={watched} />
        </div>
        <div className={styles.actions}>
          {done && <VaryMenu job={job} model={model} onVary={(changes) => onVary(job, changes)} />}
          {done && <RecipeMenu fields={fields} onUse={model && (() => onUse(job))} request={request} />}
          {done && job.outputs.length > 0 && (
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
          )}
          {!done && <Cancel job={job} />}
        </div>
      </header>
      <Progress job={job} />
      <Sources request={request} />
      {job.error && (
        <div className={styles.problem}>
          <ProblemNotice error={new ProblemError(job.error)} onRetry={() => onVary(job, {})} />
        </div>
      )}
      {job.status === "canceled" && job.outputs.length === 0 && (
        <p className={styles.nothing}>{t("wall.nothing")}</p>
      )}
      {pictures.length > 0 && (
        <Frames
          captions={request.n <= MOST_CAPTIONS && labels.length > 1}
          count={request.n}
          label={t("wall.heading")}
          natural={natural}
          pictures={pictures}
        />
      )}
      <Lightbox
        job={job}
        model={model}
        onClose={close}
        onKeepSeed={(seed) => {
          close();
          onKeepSeed(seed);
        }}
        onMove={setOpened}
        onNeighbours={({ label, seed }) => {
          close();
          onVary(job, {
            labels: label === null ? [] : [label],
            n: 2 * NEIGHBOURS + 1,
            seed: Math.max(0, seed - NEIGHBOURS),
          });
        }}
        onSameNoise={(label, seed) => {
          close();
          onVary(job, { labels: [label], n: 1, seed });
        }}
        onStartFrom={(output) => {
          close();
          onStartFrom(output);
        }}
        opened={opened}
      />
    </section>
  );
}

function Cancel({ job }: { job: Job }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const cancel = useMutation({
    mutationFn: () => cancelGeneration(job.id),
    onSuccess: (found) => remember(client, found),
  });
  const canceling = job.status === "canceling" || cancel.isPending || cancel.isSuccess;
  const sent = job.id !== ""; // until then only what is expected of it is known
  return (
    <>
      <Button disabled={canceling || !sent} onClick={() => cancel.mutate()} size="sm" variant="default">
        {canceling ? t("wall.canceling") : t("wall.cancel")}
      </Button>
      {cancel.isError && <ProblemNotice error={cancel.error} onRetry={() => cancel.mutate()} />}
    </>
  );
}
