/** One generated picture at a given width; magnified ones show their pixels as squares. */
import { useState } from "react";
import styles from "./Picture.module.css";

interface Props {
  src: string | null; // null: not finished
  under?: string | null; // a preview, seen until the picture is loaded: nothing flashes, nothing moves
  alt: string;
  width: number;
  height: number;
  crisp: boolean;
  eager?: boolean;
}

export function Picture({ src, under = null, alt, width, height, crisp, eager = false }: Props) {
  const [loaded, setLoaded] = useState(false);
  const box = { height, width, draggable: false, "data-crisp": crisp || undefined };
  return (
    <span className={styles.box} style={{ width, height }}>
      {under && !loaded && <img {...box} alt="" className={styles.under} src={under} />}
      {src && (
        <img
          {...box}
          alt={alt}
          className={styles.picture}
          data-over={(under && true) || undefined}
          decoding="async"
          loading={eager || under ? "eager" : "lazy"}
          onLoad={() => setLoaded(true)}
          src={src}
        />
      )}
    </span>
  );
}
