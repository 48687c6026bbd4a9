/** What a model can be asked to do: its tasks, the images each starts from, and the controls of each. */
import type { Model } from "@/client/client";
import { type Field, fieldsOf } from "./schema";

export const INPUTS = ["image", "to_image", "mask"] as const;
export type InputKind = (typeof INPUTS)[number];

/** The model's tasks; what makes images from nothing comes first. */
export function tasksOf(model: Model): string[] {
  return Object.keys(model.tasks).toSorted((a, b) => Number(b === "generate") - Number(a === "generate"));
}

/** The task that is meant by `wanted`, where the model has it, else its first one. */
export function taskOf(model: Model, wanted: string | undefined): string {
  return wanted !== undefined && wanted in model.tasks ? wanted : (tasksOf(model)[0] ?? "generate");
}

export function inputsOf(model: Model, task: string): InputKind[] {
  const inputs = model.tasks[task]?.inputs ?? [];
  return INPUTS.filter((kind) => inputs.includes(kind));
}

export function controlsOf(model: Model | undefined, task: string): Field[] {
  const found = model?.tasks[task];
  return found ? fieldsOf(found.schema, found.defaults) : [];
}
