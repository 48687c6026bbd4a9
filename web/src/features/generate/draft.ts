/** What a person has set for the next generation: by model and task, kept as long as the page lives. */
import { useSyncExternalStore } from "react";
import type { Job, Model } from "@/client/client";
import { defaultsOf, type Values } from "@/lib/schema";
import { drawSeed, type SeedChoice } from "@/lib/seed";
import { controlsOf, type InputKind, inputsOf, taskOf } from "@/lib/tasks";
import type { Wish } from "./api/createGeneration";

export const MOST_IMAGES = 256;

/** An uploaded image, as far as the panel needs it. */
export interface Given {
  id: string;
  url: string;
  width: number | null; // null: known by its id only
  height: number | null;
  note: string;
}

export interface Draft extends SeedChoice {
  labels: string[]; // none: every class in turn
  n: number;
  controls: Values;
  inputs: Partial<Record<InputKind, Given>>;
}

export function newDraft(model: Model, task: string): Draft {
  const n = inputsOf(model, task).length > 0 ? 4 : 16;
  const controls = defaultsOf(controlsOf(model, task));
  return { labels: [], n, seed: drawSeed(), locked: false, controls, inputs: {} };
}

/** Images that the task needs and the draft lacks. */
export function lacking(model: Model, task: string, draft: Draft): InputKind[] {
  return inputsOf(model, task).filter((kind) => !draft.inputs[kind]);
}

export function wishOf(model: Model, task: string, draft: Draft): Wish {
  const inputs = inputsOf(model, task);
  const chosen = model.classes.filter((name) => draft.labels.includes(name));
  // With images the service wants to be told; without, nothing said is every class in turn.
  const labels = inputs.length > 0 && chosen.length === 0 ? model.classes.slice(0, MOST_IMAGES) : chosen;
  const given = inputs.flatMap((kind) => {
    const found = draft.inputs[kind];
    return found ? [[kind, [found.id]] as const] : [];
  });
  return {
    model: model.ref,
    task,
    labels,
    n: draft.n,
    seed: draft.seed,
    controls: draft.controls,
    ...Object.fromEntries(given),
  };
}

/** What is known of an asset whose id a request names. */
function givenOf(id: string): Given {
  return {
    id,
    url: `/v1/assets/${encodeURIComponent(id)}/image.png`,
    width: null,
    height: null,
    note: "",
  };
}

/** The draft that would make a job again. Asking for every class is asking for none in particular. */
export function draftOf(model: Model, request: Job["request"]): Draft {
  const every = model.classes.every((name) => request.labels.includes(name));
  const task = taskOf(model, request.task);
  const inputs: Draft["inputs"] = {};
  for (const kind of inputsOf(model, task)) {
    const [id] = request[kind] ?? [];
    if (id !== undefined) inputs[kind] = givenOf(id);
  }
  return {
    labels: every ? [] : [...new Set(request.labels)],
    n: request.n,
    seed: request.seed,
    locked: true,
    controls: { ...defaultsOf(controlsOf(model, task)), ...request.controls },
    inputs,
  };
}

// -- kept across pages ----------------------------------------------------------------------------------------------

const drafts = new Map<string, Draft>();
const listeners = new Set<() => void>();

const keyOf = (model: Model, task: string) => `${model.ref} ${task}`;

export function readDraft(model: Model, task: string): Draft {
  const key = keyOf(model, task);
  const found = drafts.get(key) ?? newDraft(model, task);
  drafts.set(key, found);
  return found;
}

export function keepDraft(model: Model, task: string, draft: Draft): void {
  drafts.set(keyOf(model, task), draft);
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function useDraft(model: Model, task: string): Draft {
  return useSyncExternalStore(subscribe, () => readDraft(model, task));
}
