/** All images as even tiles. Only the rows near the window exist; pages come as one scrolls. A grid to the keyboard. */
import { useElementSize } from "@mantine/hooks";
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, type MouseEvent, useEffect, useLayoutEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { letterOf } from "@/lib/keys";
import type { GalleryImage } from "../api/listImages";
import styles from "./Grid.module.css";
import { Tile } from "./Tile";

interface Props {
  images: GalleryImage[];
  more: boolean; // there are pages that are not loaded
  onMore: () => void;
  selected: ReadonlySet<string>;
  onSelect: (image: GalleryImage, range: boolean) => void;
  onSelectAll: () => void;
  onClear: () => void;
  onOpen: (image: GalleryImage) => void;
  onFavourite: (image: GalleryImage) => void;
  onTrash: (image: GalleryImage) => void;
}

const GAP = 10;

export function Grid(props: Props) {
  const { images, more, onMore, selected, onSelect, onSelectAll, onClear, onOpen } = props;
  const { t } = useTranslation();
  const { ref, width } = useElementSize<HTMLDivElement>();
  const [active, setActive] = useState({ id: "", at: 0 }); // the one tile that Tab comes to
  const [wanted, setWanted] = useState<number | null>(null); // to be focused as soon as it is there
  const [margin, setMargin] = useState(0);
  const frame = useRef<HTMLDivElement>(null);
  const columns = Math.max(2, Math.round(width / (width < 560 ? 124 : 164)));
  const size = Math.floor((width - (columns - 1) * GAP) / columns);
  const rows = Math.ceil(images.length / columns);
  const rest = more ? 1 : 0; // a row of blanks at the end, while there is more
  const virtual = useWindowVirtualizer({
    count: width > 0 ? rows + rest : 0,
    estimateSize: () => size + GAP,
    overscan: 3,
    scrollMargin: margin,
    getItemKey: (row) => row,
  });
  // biome-ignore lint/correctness/useExhaustiveDependencies: what stands above the grid may have changed with its width
  useLayoutEffect(() => {
    setMargin((frame.current?.getBoundingClientRect().top ?? 0) + window.scrollY);
  }, [width, images.length === 0]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: rows are as high as tiles are wide
  useLayoutEffect(() => virtual.measure(), [size]);

  const items = virtual.getVirtualItems();
  const end = items.at(-1)?.index ?? 0;
  useEffect(() => {
    if (more && width > 0 && end >= rows - 2) onMore();
  }, [more, onMore, end, rows, width]);

  const last = images.length - 1;
  const there = images.findIndex(({ id }) => id === active.id);
  const at = there < 0 ? Math.min(active.at, Math.max(0, last)) : there;
  const activate = (to: number) => setActive({ id: images[to]?.id ?? "", at: to });
  const focus = (to: number) => {
    const tile = frame.current?.querySelector<HTMLElement>(`[data-at="${to}"]`);
    tile?.focus();
    return tile != null;
  };
  useEffect(() => {
    if (wanted !== null && focus(wanted)) setWanted(null);
  });

  // A key may take away the tile that has the focus, or move it to another row: the focus stays where it is due.
  const losing = useRef(0); // how many such keys are not yet answered
  // biome-ignore lint/correctness/useExhaustiveDependencies: it is lost when the images change
  useLayoutEffect(() => {
    if (losing.current === 0) return;
    losing.current -= 1;
    if (document.activeElement === document.body && !focus(at)) setWanted(at);
  }, [images]);

  const walk = (to: number) => {
    if (to < 0 || to > last) return;
    activate(to);
    virtual.scrollToIndex(Math.floor(to / columns), { align: "auto" });
    setWanted(to);
  };
  const onKeyDown = (event: KeyboardEvent<HTMLDivElement>) => {
    if (!(event.target instanceof HTMLElement) || !event.target.matches("[data-at]")) return;
    const at = Number(event.target.dataset.at); // keys may come faster than the page is drawn
    const image = images[at];
    if (!image) return;
    const control = event.ctrlKey || event.metaKey;
    const letter = letterOf(event);
    const steps: Record<string, number> = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at - columns,
      ArrowDown: Math.min(at + columns, Math.max(last, at)),
      Home: control ? 0 : at - (at % columns),
      End: control ? last : Math.min(last, at - (at % columns) + columns - 1),
      PageUp: Math.max(at % columns, at - 3 * columns),
      PageDown: Math.min(last, at + 3 * columns),
    };
    const step = steps[event.key];
    const act = () => {
      losing.current = event.key === "Delete" || letter === "f" ? losing.current + 1 : 0;
      if (step !== undefined) {
        const next = images[Math.min(Math.max(step, 0), last)];
        if (event.shiftKey && next) {
          if (selected.size === 0) onSelect(image, false);
          onSelect(next, true);
        }
        return walk(step);
      }
      if (event.key === " ") return onSelect(image, event.shiftKey);
      if (event.key === "Delete") {
        focus(at < last ? at + 1 : at - 1); // at once: the next key is meant for the next picture
        return props.onTrash(image);
      }
      if (control && letter === "a") return onSelectAll();
      if (control || event.altKey) return false;
      if (letter === "f") return props.onFavourite(image);
      if (event.key === "Escape") return onClear();
      return false;
    };
    if (act() !== false) event.preventDefault();
  };
  const onTile = (image: GalleryImage, index: number, event: MouseEvent) => {
    activate(index);
    if (event.shiftKey || event.ctrlKey || event.metaKey) onSelect(image, event.shiftKey);
    else onOpen(image);
  };
  return (
    <div ref={ref}>
      {/* biome-ignore lint/a11y/useSemanticElements: a table cannot be laid out over rows that come and go */}
      <div
        aria-colcount={columns}
        aria-label={t("gallery.grid")}
        aria-multiselectable
        aria-rowcount={more ? -1 : rows}
        className={styles.grid}
        onKeyDown={onKeyDown}
        ref={frame}
        role="grid"
        style={{ height: virtual.getTotalSize() }}
      >
        {items.map((row) => {
          const first = row.index * columns;
          const shown = images.slice(first, first + columns);
          const style = { transform: `translateY(${row.start - margin}px)`, height: size, gap: GAP };
          if (row.index >= rows)
            return (
              <div aria-hidden="true" className={styles.row} key={row.key} style={style}>
                {Array.from({ length: columns }, (_, column) => (
                  // biome-ignore lint/suspicious/noArrayIndexKey: blanks are all the same
                  <span className={styles.blank} key={column} style={{ width: size }} />
                ))}
              </div>
            );
          return (
            // biome-ignore lint/a11y/useFocusableInteractive: its tiles are focused, one at a time
            // biome-ignore lint/a11y/useSemanticElements: a table cannot be laid out over rows that come and go
            <div aria-rowindex={row.index + 1} className={styles.row} key={row.key} role="row" style={style}>
              {shown.map((image, column) => (
                <Tile
                  active={first + column === at}
                  at={first + column}
                  column={column}
                  image={image}
                  key={image.id}
                  onFavourite={() => props.onFavourite(image)}
                  onFocus={() => activate(first + column)}
                  onOpen={(event) => onTile(image, first + column, event)}
                  onSelect={(event) => {
                    activate(first + column);
                    onSelect(image, event.shiftKey);
                  }}
                  selected={selected.has(image.id)}
                  selecting={selected.size > 0}
                  size={size}
                />
              ))}
            </div>
          );
        })}
      </div>
    </div>
  );
}
