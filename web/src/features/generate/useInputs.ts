/** The images that a task starts from: uploaded, and put into the draft of the task they were meant for. */
import { useMutation } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import type { Model } from "@/client/client";
import { type InputKind, inputsOf } from "@/lib/tasks";
import { createAsset } from "./api/createAsset";
import { type Draft, keepDraft, readDraft } from "./draft";

interface Place {
  model: Model;
  task: string;
  kind: InputKind;
}

interface Upload extends Place {
  file: Blob;
  before: Draft["inputs"]; // what the task had when it was given
  error?: unknown; // undefined: it is under way
}

interface Problem {
  error: unknown;
  retry: () => void;
  dismiss: () => void;
}

export interface Inputs {
  give: (file: Blob, kind?: InputKind) => void;
  of: (kind: InputKind) => { pending: boolean; problem: Problem | null };
}

// -- kept across pages ----------------------------------------------------------------------------------------------

let uploads: Readonly<Record<string, Upload | undefined>> = {}; // of each input the latest, unless it is done
const listeners = new Set<() => void>();

const keyOf = ({ model, task, kind }: Place) => `${model.ref} ${task} ${kind}`;

function keepUpload(place: Place, upload: Upload | undefined): void {
  uploads = { ...uploads, [keyOf(place)]: upload };
  for (const listener of listeners) listener();
}

const isLatest = (upload: Upload) => uploads[keyOf(upload)] === upload;

/** Whether its input was neither replaced nor removed since it was given; nor, for a mask, the image under it. */
function isWanted({ model, task, kind, before }: Upload): boolean {
  const { inputs } = readDraft(model, task);
  return inputs[kind] === before[kind] && (kind !== "mask" || inputs.image === before.image);
}

function readUpload(place: Place): Upload | undefined {
  const found = uploads[keyOf(place)];
  return found && isWanted(found) ? found : undefined;
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const isPending = (upload: Upload | undefined) => upload !== undefined && upload.error === undefined;

/** Which input a file is for that nobody said a place for: the first that has nothing and gets nothing, else the
 * first; never a mask, which is given as one. */
export function placeFor(model: Model, task: string): InputKind | undefined {
  const { inputs } = readDraft(model, task);
  const kinds = inputsOf(model, task).filter((kind) => kind !== "mask");
  return kinds.find((kind) => !inputs[kind] && !isPending(readUpload({ model, task, kind }))) ?? kinds[0];
}

export function useInputs(model: Model, task: string): Inputs {
  useSyncExternalStore(subscribe, () => uploads);
  const { mutate } = useMutation({
    mutationFn: ({ file, kind }: Upload) => createAsset(file, kind === "mask" ? "mask" : "image"),
    onSuccess: (given, upload) => {
      if (!isLatest(upload)) return;
      const wanted = isWanted(upload);
      keepUpload(upload, undefined);
      if (!wanted) return;
      const draft = readDraft(upload.model, upload.task);
      const inputs = { ...draft.inputs, [upload.kind]: given };
      if (upload.kind === "image") delete inputs.mask; // it was painted over another image
      keepDraft(upload.model, upload.task, { ...draft, inputs });
    },
    onError: (error, upload) => {
      if (isLatest(upload)) keepUpload(upload, isWanted(upload) ? { ...upload, error } : undefined);
    },
  });
  const give = (file: Blob, kind = placeFor(model, task)) => {
    if (kind === undefined) return;
    const upload = { model, task, kind, file, before: readDraft(model, task).inputs };
    keepUpload(upload, upload);
    mutate(upload);
  };
  return {
    give,
    of: (kind) => {
      const place = { model, task, kind };
      const upload = readUpload(place);
      if (!upload || isPending(upload)) return { pending: upload !== undefined, problem: null };
      const { file, error } = upload;
      const dismiss = () => keepUpload(place, undefined);
      return { pending: false, problem: { error, retry: () => give(file, kind), dismiss } };
    },
  };
}
