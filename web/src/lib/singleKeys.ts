/** Shortcuts of one character can be turned off (WCAG 2.1.4): speech and stray keys would set them off. */
import { useSyncExternalStore } from "react";

const STORE = "kartina-single-keys";
const listeners = new Set<() => void>();

function read(): boolean {
  try {
    return localStorage.getItem(STORE) !== "off";
  } catch {
    return true; // storage is off
  }
}

let on = read();

export function setSingleKeys(wanted: boolean): void {
  on = wanted;
  try {
    localStorage.setItem(STORE, wanted ? "on" : "off");
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
  for (const listener of listeners) listener();
}

export function useSingleKeys(): boolean {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => on,
  );
}
