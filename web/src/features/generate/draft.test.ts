import { describe, expect, it } from "vitest";
import type { Model } from "@/client/client";
import { inputsOf, taskOf, tasksOf } from "@/lib/tasks";
import { draftOf, keepDraft, lacking, newDraft, readDraft, wishOf } from "./draft";
import { job } from "./testJob";

const schema = { properties: { steps: { type: "integer", default: 8 } } };
const task = (...inputs: string[]) => ({ inputs, schema, defaults: {} });
const model = {
  ref: "edits@1",
  classes: ["cat", "dog", "pig"],
  tasks: { transform: task("image"), inpaint: task("image", "mask"), generate: task() },
} as unknown as Model;
const given = (id: string) => ({ id, url: `/v1/assets/${id}/image.png`, width: 8, height: 8, note: "" });

describe("tasks", () => {
  it("begin with the one that needs nothing, and fall back to it", () => {
    expect(tasksOf(model)).toEqual(["generate", "transform", "inpaint"]);
    expect(taskOf(model, "inpaint")).toBe("inpaint");
    expect(taskOf(model, "fly")).toBe("generate");
    expect(inputsOf(model, "inpaint")).toEqual(["image", "mask"]);
  });
});

describe("a draft", () => {
  it("asks for classes in the model's order, and for none in particular by saying none", () => {
    const draft = { ...newDraft(model, "generate"), labels: ["pig", "cat"] };
    expect(wishOf(model, "generate", draft).labels).toEqual(["cat", "pig"]);
    expect(wishOf(model, "generate", { ...draft, labels: [] }).labels).toEqual([]);
  });

  it("says what it lacks, and names images and all classes where images are given", () => {
    const draft = { ...newDraft(model, "inpaint"), inputs: { image: given("a") } };
    expect(lacking(model, "inpaint", draft)).toEqual(["mask"]);
    const wish = wishOf(model, "inpaint", { ...draft, inputs: { ...draft.inputs, mask: given("m") } });
    expect(wish).toMatchObject({ labels: ["cat", "dog", "pig"], image: ["a"], mask: ["m"], task: "inpaint" });
    expect("image" in wishOf(model, "generate", draft)).toBe(false);
  });

  it("can be had back from what was asked", () => {
    const { request } = job();
    const draft = draftOf(model, {
      ...request,
      task: "transform",
      labels: ["dog", "dog"],
      seed: 40,
      controls: { steps: 3 },
      image: ["a"],
    });
    expect(draft).toMatchObject({ labels: ["dog"], seed: 40, locked: true, controls: { steps: 3 } });
    expect(draft.inputs.image?.id).toBe("a");
    expect(draftOf(model, { ...request, labels: ["cat", "dog", "pig"] }).labels).toEqual([]);
  });

  it("is kept by model and task", () => {
    const kept = { ...readDraft(model, "generate"), n: 7 };
    keepDraft(model, "generate", kept);
    expect(readDraft(model, "generate")).toBe(kept);
    expect(readDraft(model, "transform").n).toBe(4);
  });
});
