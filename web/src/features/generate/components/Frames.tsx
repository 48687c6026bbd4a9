/** Pictures hung side by side in even frames, as large as their number allows, pixels kept square. */
import { useElementSize } from "@mantine/hooks";
import { type CSSProperties, type ReactNode, useId } from "react";
import { Picture } from "@/components/Picture";
import { hang } from "@/lib/tileSize";
import styles from "./Frames.module.css";

export interface Framed {
  key: string;
  src: string | null; // null: not finished
  preview?: string | null; // what it looks like so far
  caption: string;
  label: string; // the accessible name
  pending: boolean;
  onOpen?: (() => void) | undefined;
}

interface Props {
  pictures: Framed[];
  count: number; // what the frames are sized for: it does not change when some are never finished
  natural: { width: number; height: number };
  captions: boolean;
  label: string;
}

const GAP = 20;
const GAP_NARROW = 10;
const MAT = 10;
const MAT_NARROW = 6;

export function Frames({ pictures, count, natural, captions, label }: Props) {
  const { ref, width } = useElementSize();
  const narrow = width < 560 || count > 80;
  const wall = { width, gap: narrow ? GAP_NARROW : GAP, mat: narrow ? MAT_NARROW : MAT };
  const { columns, width: size, crisp } = hang(natural.width, count, wall);
  const height = Math.round((size * natural.height) / natural.width);
  const used = columns * (size + 2 * wall.mat + wall.gap) - wall.gap;
  const full = count >= columns && columns > 1 && width - used < 12 * columns;
  const style = {
    "--columns": Math.min(columns, Math.max(1, count)),
    "--gap": `${wall.gap}px`,
    "--mat": `${wall.mat}px`,
    "--picture": `${size}px`,
  } as CSSProperties;
  return (
    <div ref={ref}>
      {width > 0 && (
        <ul aria-label={label} className={styles.frames} data-full={full || undefined} style={style}>
          {pictures.map((picture) => (
            <li className={styles.item} key={picture.key}>
              <Frame picture={picture}>
                <Picture
                  alt=""
                  crisp={crisp}
                  height={height}
                  src={picture.src}
                  under={picture.preview ?? null}
                  width={size}
                />
              </Frame>
              {captions && <span className={styles.caption}>{picture.caption}</span>}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function Frame({ picture, children }: { picture: Framed; children: ReactNode }) {
  const id = useId();
  if (picture.onOpen)
    return (
      <button aria-label={picture.label} className={styles.frame} onClick={picture.onOpen} type="button">
        {children}
      </button>
    );
  return (
    <div
      aria-labelledby={id}
      className={styles.frame}
      data-pending={(picture.pending && !picture.preview) || undefined}
      data-preview={(picture.pending && picture.preview && true) || undefined}
      role="img"
    >
      <span className="visually-hidden" id={id}>
        {picture.label}
      </span>
      {children}
    </div>
  );
}
