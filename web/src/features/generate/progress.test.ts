import { describe, expect, it } from "vitest";
import { reduce, watched } from "./progress";
import { job, output } from "./testJob";

const running = watched(job({ status: "running", progress: { value: 0.5, step: 6, steps: 12 } }));

describe("reduce", () => {
  it("never lets progress go back", () => {
    const later = reduce(running, { type: "progress", progress: { value: 0.7, step: 8, steps: 12 } });
    expect(later.job.progress.step).toBe(8);
    expect(reduce(later, { type: "progress", progress: { value: 0.6, step: 7, steps: 12 } })).toBe(later);
  });

  it("keeps outputs in order and once, however they come", () => {
    let state = reduce(running, { type: "output", output: output(1) });
    state = reduce(state, { type: "output", output: output(0) });
    state = reduce(state, { type: "output", output: output(1) });
    expect(state.job.outputs.map(({ index }) => index)).toEqual([0, 1]);
  });

  it("keeps outputs that an older snapshot does not know", () => {
    const state = reduce(running, { type: "output", output: output(0) });
    const snapshot = reduce(state, { type: "status", job: job({ status: "running" }) });
    expect(snapshot.job.outputs).toHaveLength(1);
    expect(snapshot.job.progress.value).toBe(0.5);
  });

  it("shows a preview until its picture is there", () => {
    const images = [
      { index: 0, url: "data:0" },
      { index: 1, url: "data:1" },
    ];
    let state = reduce(running, { type: "preview", images });
    state = reduce(state, { type: "output", output: output(0) });
    expect(state.previews).toEqual({ 1: "data:1" });
    expect(reduce(state, { type: "preview", images }).previews).toEqual({ 1: "data:1" });
  });

  it("does not come back from the end", () => {
    const done = reduce(running, {
      type: "status",
      job: job({
        status: "succeeded",
        outputs: [output(0), output(1)],
        progress: { value: 1, step: 12, steps: 12 },
      }),
    });
    expect(done.previews).toEqual({});
    expect(reduce(done, { type: "status", job: job({ status: "running" }) })).toBe(done);
    expect(reduce(done, { type: "progress", progress: { value: 0.9, step: 1, steps: 1 } })).toBe(done);
  });
});
