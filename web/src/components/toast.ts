/** Short messages at the page's foot, each with at most one thing to do about it. */
export interface Toast {
  id: number;
  text: string;
  bad: boolean;
  action?: { label: string; run: () => void } | undefined;
}

let toasts: readonly Toast[] = [];
let last = 0;
const listeners = new Set<() => void>();

function put(next: readonly Toast[]): void {
  toasts = next;
  for (const listener of listeners) listener();
}

const MOST = 3;

export function toast(text: string, more: Partial<Pick<Toast, "bad" | "action">> = {}): number {
  last += 1;
  put([...toasts.slice(1 - MOST), { id: last, text, bad: false, ...more }]);
  return last;
}

export function dismiss(id: number): void {
  put(toasts.filter((one) => one.id !== id));
}

export function readToasts(): readonly Toast[] {
  return toasts;
}

export function onToasts(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
