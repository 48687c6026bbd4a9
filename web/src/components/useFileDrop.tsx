/** A file dropped anywhere on the page, or pasted; and what is shown while one is held over it. */
import { useWindowEvent } from "@mantine/hooks";
import { type ReactNode, useRef, useState } from "react";
import styles from "./useFileDrop.module.css";

const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;

/** Calls `take` with the first file. The overlay says `text`, what will become of it. */
export function useFileDrop(take: (file: File) => void, text: string, paste = false): ReactNode {
  const [over, setOver] = useState(false);
  const depth = useRef(0); // dragenter and dragleave come for every element on the way
  useWindowEvent("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth.current += 1;
    setOver(true);
  });
  useWindowEvent("dragleave", (event) => {
    if (!hasFiles(event)) return;
    depth.current -= 1;
    if (depth.current <= 0) setOver(false);
  });
  useWindowEvent("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  useWindowEvent("drop", (event) => {
    depth.current = 0;
    setOver(false);
    if (!hasFiles(event) || event.defaultPrevented) return;
    event.preventDefault();
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
  useWindowEvent("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (!paste || !file?.type.startsWith("image/")) return;
    event.preventDefault();
    take(file);
  });
  return over ? (
    <div className={styles.overlay} role="status">
      <p>{text}</p>
    </div>
  ) : null;
}
