/** How large to hang pictures: whole-number magnification for small ones, so that every pixel is the same size. */

export interface Hanging {
  columns: number;
  width: number; // CSS pixels of one picture
  crisp: boolean; // magnified: show pixels as squares
}

export interface Wall {
  width: number; // CSS pixels that the pictures may fill
  gap: number; // between frames
  mat: number; // around each picture, on each side
}

const wanted = (count: number) =>
  count <= 2 ? 300 : count <= 6 ? 224 : count <= 30 ? 156 : count <= 80 ? 112 : 84;

/** Columns of frames around pictures of `width` pixels, and the share of the wall that they fill. */
function packed(width: number, wall: Wall): { columns: number; fill: number } {
  const frame = width + 2 * wall.mat;
  const columns = Math.max(1, Math.floor((wall.width + wall.gap) / (frame + wall.gap)));
  return { columns, fill: (columns * (frame + wall.gap) - wall.gap) / wall.width };
}

/** The columns and the width of one picture for `count` pictures of `natural` pixels across. */
export function hang(natural: number, count: number, wall: Wall): Hanging {
  const least = count === 1 ? 1 : count <= 6 ? 2 : count <= 30 ? 3 : 4; // columns, also on a phone
  const room = (wall.width - (least - 1) * wall.gap) / least - 2 * wall.mat;
  const ideal = Math.min(wanted(count), room);
  // Near the ideal, the whole factor that leaves the least of the wall empty.
  let best: Hanging | null = null;
  let bestScore = Number.NEGATIVE_INFINITY;
  for (let factor = 1; factor * natural <= Math.min(room, 1.5 * ideal); factor++) {
    const width = factor * natural;
    const { columns, fill } = packed(width, wall);
    const score = (columns < count ? fill : 1) - 0.35 * Math.abs(Math.log2(width / ideal));
    if (score > bestScore) {
      best = { columns, width, crisp: factor >= 2 };
      bestScore = score;
    }
  }
  if (best && best.width > 0.6 * ideal) return best;
  const { columns } = packed(ideal, wall);
  const width = (wall.width - (columns - 1) * wall.gap) / columns - 2 * wall.mat;
  return { columns, width: Math.max(16, Math.floor(Math.min(width, 1.25 * ideal))), crisp: false };
}

const MOST = 16; // times: larger, a 28-pixel picture is a floor of tiles

/** The width at which one picture fills `room` CSS pixels: a whole factor up, or as much as fits. */
export function enlarge(natural: number, room: number): { width: number; crisp: boolean } {
  const factor = Math.min(MOST, Math.floor(room / natural));
  return factor >= 1
    ? { width: factor * natural, crisp: factor >= 2 }
    : { width: Math.floor(room), crisp: false };
}
