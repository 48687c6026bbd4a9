/** Seeds: whole numbers that the page draws itself, so that what is shown is what will be used. */

/** What the service takes: image i of a generation has seed + i, so the largest leaves room for the largest n. */
export const SEED_MAX = Number.MAX_SAFE_INTEGER - 256;

/** Seeds drawn here stay below this, so that they can be read aloud. */
const DRAWN_BELOW = 2 ** 31;

export interface SeedChoice {
  seed: number;
  locked: boolean;
}

export type Draw = () => number;

/** A seed from the browser's own randomness. */
export function drawSeed(): number {
  const [word = 0] = crypto.getRandomValues(new Uint32Array(1));
  return word % DRAWN_BELOW;
}

/** The choice to generate with: a locked seed stays, an unlocked one is drawn anew. */
export function forGeneration(choice: SeedChoice, draw: Draw = drawSeed): SeedChoice {
  return choice.locked ? choice : { ...choice, seed: draw() };
}

/** A seed that a person typed: whole, in range, and locked, because they want exactly it. */
export function typed(choice: SeedChoice, value: string | number): SeedChoice {
  const number = typeof value === "number" ? value : value.trim() === "" ? Number.NaN : Number(value);
  if (!Number.isFinite(number)) return choice;
  return { seed: Math.min(SEED_MAX, Math.max(0, Math.trunc(number))), locked: true };
}
