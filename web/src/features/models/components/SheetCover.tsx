/** The top of a sample sheet, cut between rows so that no picture is cut; one row of the sheet is one class. */
import { useState } from "react";
import styles from "./SheetCover.module.css";

interface Props {
  src: string;
  alt: string;
  rows: number; // of the sheet
  cell: { width: number; height: number }; // pixels of one picture
}

const RATIO = 2.6; // width to height that a cover aims at

export function SheetCover({ src, alt, rows, cell }: Props) {
  const [ratio, setRatio] = useState(RATIO);
  const [small, setSmall] = useState(false); // all of it is shown, as large as it fits
  return (
    <span className={styles.cover} data-small={small || undefined} style={{ aspectRatio: ratio }}>
      <img
        alt={alt}
        decoding="async"
        draggable={false}
        onLoad={({ currentTarget: { naturalWidth, naturalHeight } }) => {
          const rowHeight = naturalHeight / Math.max(1, rows);
          // Another layout than one row a class, or rows so short that a single one would be a tower.
          if (rowHeight < cell.height * 0.75 || naturalWidth / rowHeight < RATIO / 1.5) return setSmall(true);
          const shown = Math.min(rows, Math.max(1, Math.round(naturalWidth / RATIO / rowHeight)));
          setRatio(naturalWidth / (shown * rowHeight));
        }}
        src={src}
      />
    </span>
  );
}
