/** What a person has set for the next generation with one model. */
import type { Job, Model } from "@/client/client";
import { defaultsOf, type Field, fieldsOf, type Values } from "@/lib/schema";
import { drawSeed, type SeedChoice } from "@/lib/seed";
import type { Wish } from "./api/createGeneration";

export const MOST_IMAGES = 256;

export interface Draft extends SeedChoice {
  labels: string[]; // none: every class in turn
  n: number;
  controls: Values;
}

export function controlsOf(model: Model): Field[] {
  const task = model.tasks.generate;
  return task ? fieldsOf(task.schema, task.defaults) : [];
}

export function newDraft(model: Model): Draft {
  return { labels: [], n: 16, seed: drawSeed(), locked: false, controls: defaultsOf(controlsOf(model)) };
}

export function wishOf(model: Model, draft: Draft): Wish {
  const order = model.classes.filter((name) => draft.labels.includes(name));
  return { model: model.ref, labels: order, n: draft.n, seed: draft.seed, controls: draft.controls };
}

/** The draft that would make a job again. Asking for every class is asking for none in particular. */
export function draftOf(model: Model, request: Job["request"]): Draft {
  const every = model.classes.every((name) => request.labels.includes(name));
  return {
    labels: every ? [] : [...request.labels],
    n: request.n,
    seed: request.seed,
    locked: true,
    controls: { ...defaultsOf(controlsOf(model)), ...request.controls },
  };
}
