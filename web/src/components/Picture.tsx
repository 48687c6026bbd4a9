/** One generated picture at a given width; magnified ones show their pixels as squares. */
import styles from "./Picture.module.css";

interface Props {
  src: string;
  alt: string;
  width: number;
  height: number;
  crisp: boolean;
  eager?: boolean;
}

export function Picture({ src, alt, width, height, crisp, eager = false }: Props) {
  return (
    <img
      alt={alt}
      className={styles.picture}
      data-crisp={crisp || undefined}
      decoding="async"
      draggable={false}
      height={height}
      loading={eager ? "eager" : "lazy"}
      src={src}
      width={width}
    />
  );
}
