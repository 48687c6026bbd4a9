/** One picture of a generation, with what made it, and what it can lead to. */
import { Button } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { Job, Model, OutputImage } from "@/client/client";
import { IconDownload, IconLock, IconPicture, IconVary } from "@/components/icons";
import { PictureDialog } from "@/components/PictureDialog";
import dialog from "@/components/PictureDialog.module.css";
import { controlFacts, fileName } from "@/lib/pictureFacts";
import { controlsOf, inputsOf, tasksOf } from "@/lib/tasks";

interface Props {
  job: Job;
  model: Model | undefined;
  opened: number | null; // index of the picture
  onMove: (index: number) => void;
  onClose: () => void;
  onKeepSeed: (seed: number) => void;
  onSameNoise: (label: string, seed: number) => void;
  onNeighbours: (output: OutputImage) => void;
  onStartFrom: (output: OutputImage) => void;
}

const MOST_OTHERS = 30;

export function Lightbox({ job, model, opened, onMove, onClose, ...on }: Props) {
  const { t, i18n } = useTranslation();
  const at = job.outputs.findIndex(({ index }) => index === opened);
  const output = job.outputs[at];
  const label = output?.label ?? t("wall.unlabelled");
  const others = (model?.classes ?? []).filter((name) => name !== output?.label).slice(0, MOST_OTHERS);
  const plain = job.request.task === "generate";
  const startable = model && tasksOf(model).some((task) => inputsOf(model, task).includes("image"));
  return (
    <PictureDialog
      facts={
        output
          ? [
              [t("lightbox.seed"), String(output.seed)],
              [t("lightbox.model"), job.request.model],
              [t("lightbox.size"), `${output.width} × ${output.height}`],
              ...controlFacts(job.request.controls, controlsOf(model, job.request.task), i18n.language),
            ]
          : []
      }
      has={{ previous: at > 0, next: at < job.outputs.length - 1 }}
      onClose={onClose}
      onStep={(by) => {
        const next = job.outputs[at + by];
        if (next) onMove(next.index);
      }}
      picture={output && { ...output, label, alt: t("wall.picture", { label, seed: output.seed }) }}
      title={t("lightbox.title", { number: at + 1, count: job.outputs.length })}
    >
      {output && (
        <>
          <div className={dialog.actions}>
            <Button
              component="a"
              download={fileName(output.index, output.label, output.seed)}
              href={output.url}
              leftSection={<IconDownload size={16} />}
            >
              {t("lightbox.download")}
            </Button>
            <Button
              leftSection={<IconVary size={16} />}
              onClick={() => on.onNeighbours(output)}
              variant="default"
            >
              {t("lightbox.neighbours")}
            </Button>
            <Button
              leftSection={<IconLock size={16} />}
              onClick={() => on.onKeepSeed(output.seed)}
              variant="default"
            >
              {t("lightbox.keep_seed")}
            </Button>
            {startable && (
              <Button
                leftSection={<IconPicture size={16} />}
                onClick={() => on.onStartFrom(output)}
                variant="default"
              >
                {t("lightbox.start_from")}
              </Button>
            )}
          </div>
          {model && plain && others.length > 0 && (
            <section aria-labelledby="same-noise">
              <h3 className={dialog.caption} id="same-noise">
                {t("lightbox.same_noise")}
              </h3>
              <ul className={dialog.others}>
                {others.map((name) => {
                  const example = model.urls.classes[model.classes.indexOf(name)];
                  return (
                    <li key={name}>
                      <button onClick={() => on.onSameNoise(name, output.seed)} title={name} type="button">
                        {example ? <img alt={name} height={40} src={example} width={40} /> : name}
                      </button>
                    </li>
                  );
                })}
              </ul>
            </section>
          )}
        </>
      )}
    </PictureDialog>
  );
}
