/** The images that a task starts from: chosen, dropped, pasted; a mask is painted. */
import { Button, Loader } from "@mantine/core";
import { type DragEvent, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { IconBrush, IconClose, IconUpload } from "@/components/icons";
import { ProblemNotice } from "@/components/ProblemNotice";
import type { InputKind } from "@/lib/tasks";
import type { Draft, Given } from "../draft";
import type { Inputs } from "../useInputs";
import styles from "./ImageInputs.module.css";
import { MaskEditor } from "./MaskEditor";

interface Props {
  kinds: InputKind[];
  given: Draft["inputs"];
  missing: InputKind[]; // asked for in vain
  inputs: Inputs;
  onRemove: (kind: InputKind) => void;
}

const ACCEPT = "image/png,image/jpeg,image/webp";

export function ImageInputs({ kinds, given, missing, inputs, onRemove }: Props) {
  return (
    <div className={styles.inputs}>
      {kinds.map((kind) => (
        <ImageInput
          given={given[kind]}
          inputs={inputs}
          key={kind}
          kind={kind}
          missing={missing.includes(kind)}
          onRemove={() => onRemove(kind)}
          under={kind === "mask" ? given.image : undefined}
        />
      ))}
    </div>
  );
}

interface InputProps {
  kind: InputKind;
  given: Given | undefined;
  missing: boolean;
  under: Given | undefined; // the image that a mask is painted over
  inputs: Inputs;
  onRemove: () => void;
}

function ImageInput({ kind, given, missing, under, inputs, onRemove }: InputProps) {
  const { t } = useTranslation();
  const [over, setOver] = useState(false);
  const [painting, setPainting] = useState(false);
  const chooser = useRef<HTMLInputElement>(null);
  const name = t(`input.${kind}`);
  const { pending, problem } = inputs.of(kind);
  const waiting = kind === "mask" && inputs.of("image").pending; // for the image that a mask is of
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    const [file] = event.dataTransfer.files;
    if (file) inputs.give(file, kind);
  };
  return (
    <fieldset className={styles.input}>
      <legend>{name}</legend>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: dropping is one way more; the buttons do it, too */}
      <div
        className={styles.box}
        data-over={over || undefined}
        onDragLeave={() => setOver(false)}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDrop={drop}
      >
        {pending ? (
          <span className={styles.thumb}>
            <Loader aria-label={t("input.uploading")} size="sm" type="dots" />
          </span>
        ) : (
          given && (
            <span className={styles.thumb}>
              <img alt={t("input.chosen", { name })} src={given.url} />
            </span>
          )
        )}
        <div className={styles.ways}>
          {kind === "mask" && (
            <Button
              disabled={!under || waiting}
              leftSection={<IconBrush size={16} />}
              onClick={() => setPainting(true)}
              size="xs"
              variant="default"
            >
              {t("input.paint")}
            </Button>
          )}
          <Button
            disabled={waiting}
            leftSection={<IconUpload size={16} />}
            onClick={() => chooser.current?.click()}
            size="xs"
            variant="default"
          >
            {given ? t("input.another") : t("input.choose")}
          </Button>
          {given && (
            <Button
              aria-label={t("input.remove", { name })}
              leftSection={<IconClose size={14} />}
              onClick={onRemove}
              size="xs"
              variant="subtle"
            >
              {t("input.remove_short")}
            </Button>
          )}
          {!given && (
            <p className={styles.hint}>
              {kind === "mask" ? (under ? t("input.mask_hint") : t("input.mask_wait")) : t("input.hint")}
            </p>
          )}
          {given?.note && <p className={styles.hint}>{given.note}</p>}
        </div>
        <input
          accept={ACCEPT}
          aria-label={t("input.file", { name })}
          hidden
          onChange={(event) => {
            const [file] = event.currentTarget.files ?? [];
            if (file) inputs.give(file, kind);
            event.currentTarget.value = ""; // the same file again is a change, too
          }}
          ref={chooser}
          type="file"
        />
      </div>
      {missing && !given && (
        <p className={styles.missing} role="alert">
          {t(kind === "mask" ? "input.missing_mask" : "input.missing")}
        </p>
      )}
      {problem && <ProblemNotice error={problem.error} onDismiss={problem.dismiss} onRetry={problem.retry} />}
      {under && (
        <MaskEditor
          onClose={() => setPainting(false)}
          onDone={(mask) => inputs.give(mask, "mask")}
          opened={painting}
          src={under.url}
        />
      )}
    </fieldset>
  );
}
