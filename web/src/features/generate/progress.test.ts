import { describe, expect, it } from "vitest";
import { reduce, timeLeft, watched } from "./progress";
import { job, output } from "./testJob";

const running = watched(job({ status: "running", progress: { value: 0.5, step: 6, steps: 12 } }));
const progress = (value: number) => ({
  type: "progress" as const,
  progress: { value, step: Math.round(value * 100), steps: 100 },
});

describe("reduce", () => {
  it("never lets progress go back", () => {
    const later = reduce(running, progress(0.7));
    expect(later.job.progress.step).toBe(70);
    expect(reduce(later, progress(0.6))).toBe(later);
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

  it("keeps the last preview of a picture under it, and takes no later one", () => {
    const images = (name: string) => [
      { index: 0, url: `data:0${name}` },
      { index: 1, url: `data:1${name}` },
    ];
    let state = reduce(running, { type: "preview", images: images("a") });
    state = reduce(state, { type: "output", output: output(0) });
    state = reduce(state, { type: "preview", images: images("b") });
    expect(state.previews).toEqual({ 0: "data:0a", 1: "data:1b" });
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
    expect(reduce(done, { type: "status", job: job({ status: "running" }) })).toBe(done);
    expect(reduce(done, progress(0.9))).toBe(done);
  });

  it("does not come back from canceling before the service has heard of it", () => {
    const canceling = reduce(running, { type: "status", job: job({ status: "canceling" }) });
    expect(reduce(canceling, { type: "status", job: job({ status: "running" }) })).toBe(canceling);
    expect(reduce(canceling, { type: "status", job: job({ status: "canceled" }) }).job.status).toBe(
      "canceled",
    );
  });

  it("says that a broken connection is back, and only then", () => {
    expect(reduce(running, { type: "link", up: true }).link).toBe("live");
    const away = reduce(running, { type: "link", up: false });
    expect(away.link).toBe("away");
    expect(reduce(away, { type: "link", up: true }).link).toBe("back");
  });
});

describe("timeLeft", () => {
  it("is not guessed from nothing", () => {
    expect(timeLeft(running)).toBeNull();
    expect(timeLeft(reduce(running, progress(0.5), 1000))).toBeNull();
  });

  it("goes by the pace since the first progress", () => {
    const state = reduce(reduce(running, progress(0.5), 1000), progress(0.75), 6000);
    expect(timeLeft(state)).toBe(5000);
  });

  it("starts anew after the connection broke off or the job waits again", () => {
    const state = reduce(reduce(running, progress(0.5), 1000), progress(0.75), 6000);
    expect(timeLeft(reduce(state, { type: "link", up: false }))).toBeNull();
    expect(timeLeft(reduce(state, { type: "status", job: job({ status: "queued" }) }))).toBeNull();
  });
});
