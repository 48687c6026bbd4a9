/** The images that a task starts from: uploaded, and put into the draft of the task they were meant for. */
import { useMutation } from "@tanstack/react-query";
import type { Model } from "@/client/client";
import { type InputKind, inputsOf } from "@/lib/tasks";
import { createAsset } from "./api/createAsset";
import { keepDraft, lacking, readDraft } from "./draft";

interface Upload {
  model: Model;
  task: string;
  kind: InputKind;
  file: Blob;
}

export interface Inputs {
  give: (file: Blob, kind?: InputKind) => void;
  pending: InputKind | null;
  problem: { kind: InputKind; error: unknown; retry: () => void } | null;
  dismiss: () => void;
}

/** Which input a file is for that nobody said a place for: the first empty one, never the mask before an image. */
export function placeFor(model: Model, task: string): InputKind | undefined {
  const empty = lacking(model, task, readDraft(model, task));
  return empty[0] ?? inputsOf(model, task)[0];
}

export function useInputs(model: Model, task: string): Inputs {
  const upload = useMutation({
    mutationFn: ({ file, kind }: Upload) => createAsset(file, kind === "mask" ? "mask" : "image"),
    onSuccess: (given, { model: of, task: for_, kind }) => {
      const draft = readDraft(of, for_);
      const inputs = { ...draft.inputs, [kind]: given };
      if (kind === "image") delete inputs.mask; // it was painted over another image
      keepDraft(of, for_, { ...draft, inputs });
    },
  });
  const asked = upload.variables;
  const mine = asked?.model.ref === model.ref && asked.task === task ? asked : undefined;
  return {
    give: (file, kind = placeFor(model, task)) => kind && upload.mutate({ model, task, kind, file }),
    pending: mine && upload.isPending ? mine.kind : null,
    problem:
      mine && upload.isError
        ? { kind: mine.kind, error: upload.error, retry: () => upload.mutate(mine) }
        : null,
    dismiss: () => upload.reset(),
  };
}
