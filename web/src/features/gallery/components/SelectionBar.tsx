/** What can be done to the selected images. */
import { Button } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { IconClose, IconDownload, IconHeart, IconRestore, IconTrash } from "@/components/icons";
import { type Change, MOST_IDS } from "../api/changeImages";
import type { GalleryImage } from "../api/listImages";
import styles from "./SelectionBar.module.css";

interface Props {
  images: GalleryImage[];
  trash: boolean;
  zip: string;
  onAct: (change: Change) => void;
  onClear: () => void;
}

export function SelectionBar({ images, trash, zip, onAct, onClear }: Props) {
  const { t } = useTranslation();
  const all = images.every(({ favourite }) => favourite);
  const many = images.length > MOST_IDS;
  return (
    <section aria-label={t("gallery.selection")} className={styles.bar}>
      <p aria-live="polite" className={styles.count}>
        {t("gallery.selected", { count: images.length })}
      </p>
      {trash ? (
        <>
          <Button
            leftSection={<IconRestore size={16} />}
            onClick={() => onAct("restore")}
            size="sm"
            variant="default"
          >
            {t("gallery.restore")}
          </Button>
          <Button
            color="red"
            leftSection={<IconTrash size={16} />}
            onClick={() => onAct("delete")}
            size="sm"
            variant="default"
          >
            {t("gallery.delete")}
          </Button>
        </>
      ) : (
        <>
          <Button
            leftSection={<IconHeart filled={all} size={16} />}
            onClick={() => onAct(all ? "ordinary" : "favourite")}
            size="sm"
            variant="default"
          >
            {all ? t("gallery.unfavourite") : t("gallery.favourite")}
          </Button>
          {many ? (
            <span className={styles.note}>{t("gallery.zip_most", { count: MOST_IDS })}</span>
          ) : (
            <Button
              component="a"
              download
              href={zip}
              leftSection={<IconDownload size={16} />}
              size="sm"
              variant="default"
            >
              {t("gallery.zip")}
            </Button>
          )}
          <Button
            leftSection={<IconTrash size={16} />}
            onClick={() => onAct("trash")}
            size="sm"
            variant="default"
          >
            {t("gallery.to_trash")}
          </Button>
        </>
      )}
      <button
        aria-label={t("gallery.clear_selection")}
        className={styles.close}
        onClick={onClear}
        type="button"
      >
        <IconClose size={18} />
      </button>
    </section>
  );
}
