/** One stored image large: what made it, and what can be done with it. */
import { Button } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import type { Job, Model } from "@/client/client";
import { IconDownload, IconHeart, IconPlay, IconRestore, IconStudio, IconTrash } from "@/components/icons";
import { PictureDialog } from "@/components/PictureDialog";
import dialog from "@/components/PictureDialog.module.css";
import { ProblemNotice } from "@/components/ProblemNotice";
import { RecipeMenu } from "@/components/RecipeMenu";
import { moment } from "@/lib/format";
import { taskName } from "@/lib/i18n/i18n";
import { letterOf } from "@/lib/keys";
import { controlFacts, fileName } from "@/lib/pictureFacts";
import { controlsOf } from "@/lib/tasks";
import type { Change } from "../api/changeImages";
import { getRecipe } from "../api/getRecipe";
import type { GalleryImage } from "../api/listImages";

interface Props {
  image: GalleryImage | undefined; // undefined: closed
  place: string; // which of how many
  models: Model[];
  has: { previous: boolean; next: boolean };
  asking: boolean; // whether a question stands before it
  onStep: (by: 1 | -1) => void;
  onClose: () => void;
  onAct: (image: GalleryImage, change: Change) => void;
  onAgain: (request: Job["request"]) => void;
  onStudio: (request: Job["request"]) => void;
}

const TRASH_DAYS = 30;

export function Detail(props: Props) {
  const { image, place, models, has, asking, onStep, onClose, onAct, onAgain, onStudio } = props;
  const { t, i18n } = useTranslation();
  const model = models.find(({ ref }) => ref === image?.model);
  const recipe = useQuery({
    queryKey: ["recipe", image?.generation],
    queryFn: () => getRecipe(image?.generation ?? ""),
    enabled: image !== undefined,
    staleTime: Number.POSITIVE_INFINITY,
  });
  const made = recipe.data?.request;
  const one = image && made ? alone(image, made) : null;
  const label = image?.label ?? t("wall.unlabelled");
  const fields = made ? controlsOf(model, made.task) : [];
  const trashed = image?.trashed_at ?? null;
  const favour = () => image && onAct(image, image.favourite ? "ordinary" : "favourite");
  return (
    <PictureDialog
      asking={asking}
      facts={
        image
          ? [
              ...(made && made.task !== "generate"
                ? [[t("recipe.task"), taskName(made.task)] as [string, string]]
                : []),
              [t("lightbox.seed"), String(image.seed)],
              [t("lightbox.model"), image.model],
              [t("lightbox.size"), `${image.width} × ${image.height}`],
              [t("gallery.made"), moment(image.created_at, i18n.language)],
              ...(trashed
                ? [[t("gallery.kept_until"), moment(later(trashed), i18n.language)] as [string, string]]
                : []),
              ...(made ? controlFacts(made.controls, fields, i18n.language) : []),
            ]
          : []
      }
      has={has}
      onClose={onClose}
      onKey={(event) => {
        if (!image || event.repeat) return;
        if (letterOf(event) === "f" && !trashed) favour();
        else if (event.key === "Delete") onAct(image, trashed ? "delete" : "trash");
      }}
      onStep={onStep}
      picture={image && { ...image, label, alt: t("wall.picture", { label, seed: image.seed }) }}
      title={place}
    >
      {image && (
        <div className={dialog.actions}>
          {recipe.isError && <ProblemNotice error={recipe.error} onRetry={() => recipe.refetch()} />}
          {trashed ? (
            <>
              <Button leftSection={<IconRestore size={16} />} onClick={() => onAct(image, "restore")}>
                {t("gallery.restore")}
              </Button>
              <Button
                leftSection={<IconTrash size={16} />}
                onClick={() => onAct(image, "delete")}
                variant="default"
              >
                {t("gallery.delete")}
              </Button>
            </>
          ) : (
            <>
              <Button
                component="a"
                download={fileName(image.index, image.label, image.seed, image.format)}
                href={image.url}
                leftSection={<IconDownload size={16} />}
              >
                {image.format === "png" ? t("lightbox.download") : t("gallery.download")}
              </Button>
              <div className={dialog.pair}>
                <Button
                  aria-pressed={image.favourite}
                  leftSection={<IconHeart filled={image.favourite} size={16} />}
                  onClick={favour}
                  variant="default"
                >
                  {t("gallery.favourite")}
                </Button>
                <Button
                  leftSection={<IconTrash size={16} />}
                  onClick={() => onAct(image, "trash")}
                  variant="default"
                >
                  {t("gallery.to_trash")}
                </Button>
              </div>
              <Button
                disabled={!one || !model}
                leftSection={<IconPlay size={16} />}
                onClick={() => one && onAgain(one)}
                variant="default"
              >
                {t("gallery.again")}
              </Button>
              <Button
                disabled={!one || !model}
                leftSection={<IconStudio size={16} />}
                onClick={() => one && onStudio(one)}
                variant="default"
              >
                {t("gallery.studio")}
              </Button>
              {one && <RecipeMenu fields={fields} request={one} />}
              {!model && <p className={dialog.note}>{t("gallery.no_model", { model: image.model })}</p>}
            </>
          )}
        </div>
      )}
    </PictureDialog>
  );
}

function later(iso: string): string {
  return new Date(Date.parse(iso) + TRASH_DAYS * 86_400_000).toISOString();
}

/** The request that makes this image and no other: of its job's images it takes its own sources. */
function alone(image: GalleryImage, made: Job["request"]): Job["request"] {
  const own = (ids: string[] | null | undefined) => {
    const id = ids?.[image.index % ids.length];
    return id === undefined ? null : [id];
  };
  return {
    ...made,
    labels: image.label === null ? [] : [image.label],
    n: 1,
    seed: image.seed,
    image: own(made.image),
    to_image: own(made.to_image),
    mask: own(made.mask),
  };
}
