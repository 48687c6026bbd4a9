import { describe, expect, it } from "vitest";
import { faultsOf, ProblemError, problemOf } from "./problem";

const base = { status: 422, code: "config", title: "A setting cannot be used", detail: "Found ..." };

describe("problems", () => {
  it("are carried by their error and read back from anything thrown", () => {
    expect(problemOf(new ProblemError(base))).toEqual(base);
    expect(problemOf(new TypeError("x is not a function")).detail).toBe("x is not a function");
    expect(problemOf("odd").code).toBe("page");
  });

  it("list their lines, whether texts or objects", () => {
    const errors = [
      "controls.guidance: expected at most 8, found 9",
      { loc: ["body", "n"], msg: "too large" },
    ];
    expect(faultsOf({ ...base, errors })).toEqual([
      { where: "", message: "controls.guidance: expected at most 8, found 9" },
      { where: "body.n", message: "too large" },
    ]);
    expect(faultsOf(base)).toEqual([]);
  });
});
