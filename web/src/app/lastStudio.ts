/** Where the studio was left, so that the way back from another page leads there. */
export interface StudioSearch {
  model?: string | undefined;
  task?: string | undefined;
  generation?: string | undefined;
}

let last: StudioSearch = {};

export const readStudio = (): StudioSearch => last;

export function keepStudio(search: StudioSearch): void {
  last = search;
}
