import { MantineProvider } from "@mantine/core";
import { render, screen } from "@testing-library/react";
import { describe, expect, it } from "vitest";
import type { Job } from "@/client/client";
import { type JobEvent, reduce, watched } from "../progress";
import { job, output } from "../testJob";
import { Status } from "./Status";

function say(first: Partial<Job>, ...events: [JobEvent, number][]) {
  const state = events.reduce((now, [event, at]) => reduce(now, event, at), watched(job(first)));
  const { container } = render(
    <MantineProvider env="test">
      <Status watched={state} />
    </MantineProvider>,
  );
  return container.querySelector("p")?.textContent ?? "";
}

const progress = (value: number): JobEvent => ({
  type: "progress",
  progress: { value, step: value * 100, steps: 100 },
});

describe("Status", () => {
  it("says where in the queue", () => {
    expect(say({ queue_position: 3 })).toContain("In the queue, position 3");
  });

  it("says how far, how many, and how long it takes", () => {
    const text = say(
      { status: "running", outputs: [output(0)] },
      [progress(0.2), 0],
      [progress(0.4), 10_000],
    );
    expect(text).toContain("Step 40 of 100");
    expect(text).toContain("1 of 2 finished");
    expect(text).toContain("about 30 sec left");
  });

  it("says what a canceled or failed one has left", () => {
    expect(say({ status: "canceled", outputs: [output(0), output(1)] })).toContain(
      "2 finished pictures are kept",
    );
    expect(say({ status: "failed", outputs: [output(0)] })).toContain("1 finished picture is kept");
    expect(say({ status: "expired", outputs: [output(0)] })).toMatch(/in time.*1 finished picture is kept/);
  });

  it("says that the connection broke off, and that it is back", () => {
    const first = { status: "running" as const, outputs: [output(0)] };
    say(first, [{ type: "link", up: false }, 0]);
    expect(screen.getByText(/does not answer. 1 finished picture is safe/)).toBeTruthy();
    say(first, [{ type: "link", up: false }, 0], [{ type: "link", up: true }, 1]);
    expect(screen.getByText(/is back. Nothing was lost: 1 of 2/)).toBeTruthy();
  });
});
