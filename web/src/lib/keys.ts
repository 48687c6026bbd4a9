/** Letters on keys, under layouts that have no Latin ones, too: what Z does, it does where a Russian layout has Я. */
import type { useHotkeys } from "@mantine/hooks";

interface Pressed {
  key: string;
  code: string; // the key's place: KeyZ
}

/** The small Latin letter that is meant by a key; empty for all other keys. */
export function letterOf({ key, code }: Pressed): string {
  if (/^[a-z]$/i.test(key)) return key.toLowerCase();
  if (!/^\p{Letter}$/u.test(key)) return "";
  return /^Key([A-Z])$/.exec(code)?.[1]?.toLowerCase() ?? "";
}

/** For useHotkeys: a letter's place counts only where the layout has another alphabet there, not another letter. */
export function anyLayout(keys: string, run: () => void): useHotkeys.Hotkey[] {
  const elsewhere = (event: KeyboardEvent) => {
    if (letterOf(event) === "" || letterOf(event) === event.key.toLowerCase()) return;
    event.preventDefault();
    run();
  };
  return [
    [keys, run],
    [keys, elsewhere, { usePhysicalKeys: true, preventDefault: false }],
  ];
}
