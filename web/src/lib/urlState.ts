/** Pieces of the page's state that live in its address, so that they can be reloaded, shared and gone back to. */
import { useCallback, useSyncExternalStore } from "react";

const CHANGED = "kartina:address";

function subscribe(listener: () => void): () => void {
  window.addEventListener("popstate", listener);
  window.addEventListener(CHANGED, listener);
  return () => {
    window.removeEventListener("popstate", listener);
    window.removeEventListener(CHANGED, listener);
  };
}

/** Put `changes` into the query of the address; null removes. */
export function setAddress(changes: Record<string, string | null>, how: "push" | "replace" = "push"): void {
  const url = new URL(window.location.href);
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) url.searchParams.delete(key);
    else url.searchParams.set(key, value);
  }
  if (url.href === window.location.href) return;
  if (how === "push") window.history.pushState(null, "", url);
  else window.history.replaceState(null, "", url);
  window.dispatchEvent(new Event(CHANGED));
}

export function useAddress(key: string): string | null {
  const read = useCallback(() => new URLSearchParams(window.location.search).get(key), [key]);
  return useSyncExternalStore(subscribe, read);
}
