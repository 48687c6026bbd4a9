/** One picture large, with what made it, and what can be done with it. Arrow keys go from picture to picture. */
import { ActionIcon, Button, Modal } from "@mantine/core";
import { useViewportSize, useWindowEvent } from "@mantine/hooks";
import { useTranslation } from "react-i18next";
import type { Job, Model } from "@/client/client";
import { IconClose, IconDownload, IconLeft, IconLock, IconRight } from "@/components/icons";
import { Picture } from "@/components/Picture";
import { controlText } from "@/lib/i18n/i18n";
import { enlarge } from "@/lib/tileSize";
import { controlsOf } from "../draft";
import styles from "./Lightbox.module.css";

interface Props {
  job: Job;
  model: Model | undefined;
  opened: number | null; // index of the picture
  onMove: (index: number) => void;
  onClose: () => void;
  onKeepSeed: (seed: number) => void;
  onSameNoise: (label: string, seed: number) => void;
}

const MOST_OTHERS = 30;

export function Lightbox({ job, model, opened, onMove, onClose, onKeepSeed, onSameNoise }: Props) {
  const { t, i18n } = useTranslation();
  const screen = useViewportSize();
  const at = job.outputs.findIndex(({ index }) => index === opened);
  const output = job.outputs[at];
  const step = (by: number) => {
    const next = job.outputs[at + by];
    if (next) onMove(next.index);
  };
  useWindowEvent("keydown", (event) => {
    if (!output) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  const narrow = screen.width < 800;
  const room = narrow
    ? Math.min(screen.width - 64, screen.height * 0.5)
    : Math.min(screen.width - 520, screen.height - 200, 640);
  const big = output
    ? enlarge(output.width, (room * output.width) / Math.max(output.width, output.height))
    : null;
  const fields = model ? controlsOf(model) : [];
  const title = t("lightbox.title", { number: at + 1, count: job.outputs.length });
  const others = (model?.classes ?? []).filter((name) => name !== output?.label).slice(0, MOST_OTHERS);
  return (
    <Modal.Root
      centered={!narrow}
      classNames={{ content: styles.content ?? "" }}
      fullScreen={narrow}
      onClose={onClose}
      opened={output !== undefined}
      padding={0}
      radius="lg"
      size="auto"
    >
      <Modal.Overlay backgroundOpacity={0.6} />
      <Modal.Content aria-label={title}>
        <Modal.Body className={styles.body ?? ""}>
          {output && big && (
            <div className={styles.box}>
              <div className={styles.stage}>
                <Picture
                  alt={t("wall.picture", { label: output.label ?? t("wall.unlabelled"), seed: output.seed })}
                  crisp={big.crisp}
                  eager
                  height={Math.round((big.width * output.height) / output.width)}
                  src={output.url}
                  width={big.width}
                />
              </div>
              <div className={styles.side}>
                <div className={styles.bar}>
                  <p className={styles.place}>{title}</p>
                  <ActionIcon
                    aria-label={t("lightbox.previous")}
                    disabled={at <= 0}
                    onClick={() => step(-1)}
                    size={36}
                    variant="subtle"
                  >
                    <IconLeft />
                  </ActionIcon>
                  <ActionIcon
                    aria-label={t("lightbox.next")}
                    disabled={at >= job.outputs.length - 1}
                    onClick={() => step(1)}
                    size={36}
                    variant="subtle"
                  >
                    <IconRight />
                  </ActionIcon>
                  <ActionIcon
                    aria-label={t("lightbox.close")}
                    data-autofocus
                    onClick={onClose}
                    size={36}
                    variant="subtle"
                  >
                    <IconClose />
                  </ActionIcon>
                </div>
                <h2 className={styles.label}>{output.label ?? t("wall.unlabelled")}</h2>
                <dl className={styles.recipe}>
                  <div>
                    <dt>{t("lightbox.seed")}</dt>
                    <dd>{output.seed}</dd>
                  </div>
                  <div>
                    <dt>{t("lightbox.model")}</dt>
                    <dd>{job.request.model}</dd>
                  </div>
                  <div>
                    <dt>{t("lightbox.size")}</dt>
                    <dd>
                      {output.width} × {output.height}
                    </dd>
                  </div>
                  {Object.entries(job.request.controls).map(([name, value]) => {
                    const field = fields.find((one) => one.name === name) ?? {
                      name,
                      title: name,
                      description: "",
                    };
                    return (
                      <div key={name}>
                        <dt>{controlText(field, i18n.language).title}</dt>
                        <dd>{told(value, i18n.language)}</dd>
                      </div>
                    );
                  })}
                </dl>
                <div className={styles.actions}>
                  <Button
                    component="a"
                    download={fileName(output.index, output.label, output.seed)}
                    href={output.url}
                    leftSection={<IconDownload size={16} />}
                  >
                    {t("lightbox.download")}
                  </Button>
                  <Button
                    leftSection={<IconLock size={16} />}
                    onClick={() => onKeepSeed(output.seed)}
                    variant="default"
                  >
                    {t("lightbox.keep_seed")}
                  </Button>
                </div>
                {model && others.length > 0 && (
                  <section aria-labelledby="same-noise">
                    <h3 className={styles.caption} id="same-noise">
                      {t("lightbox.same_noise")}
                    </h3>
                    <ul className={styles.others}>
                      {others.map((name) => {
                        const example = model.urls.classes[model.classes.indexOf(name)];
                        return (
                          <li key={name}>
                            <button onClick={() => onSameNoise(name, output.seed)} title={name} type="button">
                              {example ? <img alt={name} height={40} src={example} width={40} /> : name}
                            </button>
                          </li>
                        );
                      })}
                    </ul>
                  </section>
                )}
              </div>
            </div>
          )}
        </Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}

function told(value: unknown, language: string): string {
  if (typeof value === "number")
    return new Intl.NumberFormat(language, { maximumFractionDigits: 6 }).format(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** 003-Ankle-boot-seed7.png, as the service names files in its ZIP. */
function fileName(index: number, label: string | null, seed: number): string {
  const plain = (label ?? "image").replace(/[^A-Za-z0-9_.-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "") || "image";
  return `${String(index).padStart(3, "0")}-${plain.slice(0, 60)}-seed${seed}.png`;
}
