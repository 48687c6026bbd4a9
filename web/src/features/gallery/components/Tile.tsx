/** One stored image. The picture opens it; its corners select it and make it a favourite. */
import { type MouseEvent, memo } from "react";
import { useTranslation } from "react-i18next";
import { IconCheck, IconHeart } from "@/components/icons";
import { enlarge } from "@/lib/tileSize";
import type { GalleryImage } from "../api/listImages";
import styles from "./Tile.module.css";

interface Props {
  image: GalleryImage;
  at: number;
  column: number;
  size: number;
  active: boolean;
  selected: boolean;
  selecting: boolean;
  onOpen: (event: MouseEvent) => void;
  onSelect: (event: MouseEvent) => void;
  onFavourite: () => void;
  onFocus: () => void;
}

const MAT = 8; // px around a picture

export const Tile = memo(function Tile(props: Props) {
  const { image, at, column, size, active, selected, selecting } = props;
  const { t } = useTranslation();
  const label = image.label ?? t("wall.unlabelled");
  const name = t("wall.picture", { label, seed: image.seed });
  const room = size - 2 * MAT;
  const big = enlarge(image.width, (room * image.width) / Math.max(image.width, image.height));
  return (
    // biome-ignore lint/a11y/useFocusableInteractive: the button in it is focused
    // biome-ignore lint/a11y/useSemanticElements: a table cannot be laid out over rows that come and go
    <div
      aria-colindex={column + 1}
      aria-selected={selected}
      className={styles.tile}
      data-favourite={image.favourite || undefined}
      data-selected={selected || undefined}
      data-selecting={selecting || undefined}
      role="gridcell"
      style={{ width: size, height: size }}
    >
      <button
        aria-label={image.favourite ? t("gallery.favourite_picture", { name }) : name}
        className={styles.open}
        data-at={at}
        onClick={props.onOpen}
        onFocus={props.onFocus}
        tabIndex={active ? 0 : -1}
        type="button"
      >
        <img
          alt=""
          data-crisp={big.crisp || undefined}
          decoding="async"
          draggable={false}
          height={Math.round((big.width * image.height) / image.width)}
          src={image.url}
          width={big.width}
        />
      </button>
      <button
        aria-label={t("gallery.select_picture", { name })}
        aria-pressed={selected}
        className={styles.select}
        onClick={props.onSelect}
        tabIndex={-1}
        type="button"
      >
        <span>{selected && <IconCheck size={14} />}</span>
      </button>
      {image.trashed_at === null && (
        <button
          aria-label={t("gallery.favour_picture", { name })}
          aria-pressed={image.favourite}
          className={styles.favourite}
          onClick={props.onFavourite}
          tabIndex={-1}
          type="button"
        >
          <span>
            <IconHeart filled={image.favourite} size={15} />
          </span>
        </button>
      )}
    </div>
  );
});
