/** A small framed picture made of few pixels: the page's own painting, for pages that have no other. */
import styles from "./PixelPicture.module.css";

const ROWS = ["00000000", "00000110", "00200110", "02320020", "23332232", "33333333", "34433443", "44444444"];

const PIXELS = ROWS.flatMap((row, y) => [...row].map((tone, x) => ({ id: `${x}-${y}`, x, y, tone })));

export function PixelPicture() {
  return (
    <div aria-hidden="true" className={styles.frame}>
      <svg aria-hidden="true" height="64" shapeRendering="crispEdges" viewBox="0 0 8 8" width="64">
        {PIXELS.map(({ id, x, y, tone }) => (
          <rect className={styles[`tone${tone}`]} height="1" key={id} width="1" x={x} y={y} />
        ))}
      </svg>
    </div>
  );
}
