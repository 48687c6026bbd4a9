import { describe, expect, it } from "vitest";
import { asCurl, asPython, literal } from "./recipe";
import { fieldsOf } from "./schema";

const request = {
  model: "fashion@1",
  task: "generate",
  labels: ["Ankle boot", "Men's shoe"],
  n: 4,
  seed: 7,
  controls: { steps: 12, guidance: 2, clip: true },
};
const fields = fieldsOf({
  properties: {
    steps: { type: "integer", default: 12 },
    guidance: { type: "number", default: 1.5 },
    clip: { type: "boolean", default: false },
  },
});

/** What a POSIX shell makes of a command's single-quoted words. */
function bodyOf(command: string): unknown {
  const quoted = command.slice(command.indexOf("-d ") + 3);
  return JSON.parse(quoted.slice(1, -1).replaceAll("'\\''", "'"));
}

describe("asCurl", () => {
  it("says the whole request, with only the controls that were changed", () => {
    const command = asCurl(request, fields, "http://127.0.0.1:8000");
    expect(command).toBe(
      [
        "curl 'http://127.0.0.1:8000/v1/generations' \\",
        `  -H "Authorization: Bearer $KARTINA_TOKEN" \\`,
        "  -H 'Content-Type: application/json' \\",
        "  -H 'Prefer: wait=60' \\",
        `  -d '{"model":"fashion@1","labels":["Ankle boot","Men'\\''s shoe"],"n":4,"seed":7,"controls":{"guidance":2,"clip":true}}'`,
      ].join("\n"),
    );
  });

  it("survives the shell whatever a class is called", () => {
    const odd = { ...request, labels: [`a'b"c$d\\e`] };
    expect(bodyOf(asCurl(odd, fields, "http://h"))).toMatchObject({ labels: [`a'b"c$d\\e`] });
  });
});

describe("asPython", () => {
  it("is the public API's call", () => {
    expect(asPython(request, fields)).toBe(
      [
        "import kartina",
        "",
        'model = kartina.load("fashion@1")',
        `samples = model.sample(["Ankle boot", "Men's shoe"], n=4, seed=7, guidance=2, clip=True)`,
        'samples.save("pictures")',
        "",
      ].join("\n"),
    );
  });

  it("names the files of a task that starts from images", () => {
    const inpaint = { ...request, task: "inpaint", labels: ["Bag"], image: ["asset_1"], mask: ["asset_2"] };
    expect(asPython(inpaint, fields)).toContain(
      'model.inpaint("image.png", "mask.png", labels=["Bag"], n=4, seed=7, guidance=2, clip=True)',
    );
    expect(bodyOf(asCurl(inpaint, fields, "http://h"))).toMatchObject({
      task: "inpaint",
      image: ["asset_1"],
      mask: ["asset_2"],
    });
  });

  it("asks for no class in particular by None", () => {
    expect(asPython({ ...request, labels: [], controls: {} }, fields)).toContain(
      "model.sample(None, n=4, seed=7)",
    );
  });

  it("writes JSON values as Python ones", () => {
    expect(literal({ a: [true, null, 'x"y'], b: 0.5 })).toBe(`{"a": [True, None, "x\\"y"], "b": 0.5}`);
  });
});
