import { describe, expect, it } from "vitest";
import type { Operation } from "./document";
import { asCurl, FORM, type Given, JSON_TYPE, requestOf, urlOf } from "./request";

const operation = (changes: Partial<Operation>): Operation => ({
  id: "x",
  group: "x",
  method: "POST",
  path: "/v1/cats/{ref}",
  description: "",
  parameters: [
    { name: "ref", in: "path", required: true, schema: { type: "string" } },
    { name: "id", in: "query", required: false, schema: { anyOf: [{ type: "array" }, { type: "null" }] } },
    { name: "limit", in: "query", required: false, schema: { type: "integer" } },
    { name: "prefer", in: "header", required: false, schema: { type: "string" } },
  ],
  responses: [],
  ...changes,
});
const given = (changes: Partial<Given> = {}): Given => ({
  parameters: { "path ref": "a/b@1", "query id": "x, y", "header prefer": "wait=9" },
  body: "",
  parts: {},
  file: null,
  ...changes,
});

describe("a request", () => {
  it("has what was typed in its places, and nothing else", () => {
    expect(urlOf(operation({}), given())).toBe("/v1/cats/a%2Fb%401?id=x&id=y");
    const [url, init] = requestOf(operation({ method: "GET" }), given());
    expect(url).toBe("/v1/cats/a%2Fb%401?id=x&id=y");
    expect(init).toEqual({ method: "GET", headers: [["prefer", "wait=9"]] });
  });

  it("sends JSON as it was typed", () => {
    const body = { type: JSON_TYPE, schema: {} };
    const [, init] = requestOf(operation({ body }), given({ body: "{" }));
    expect(init.body).toBe("{");
    expect(init.headers).toContainEqual(["Content-Type", JSON_TYPE]);
  });

  it("sends a form with its files, and leaves its type to the browser", () => {
    const file = new File(["x"], "cat.png");
    const body = { type: FORM, schema: {} };
    const [, init] = requestOf(operation({ body }), given({ parts: { file, kind: "", n: "2" } }));
    const form = init.body as FormData;
    expect([...form.keys()]).toEqual(["file", "n"]);
    expect((form.get("file") as File).name).toBe("cat.png");
    expect(init.headers).toEqual([["prefer", "wait=9"]]);
  });

  it("is a command, whose words the shell leaves alone", () => {
    const body = { type: JSON_TYPE, schema: {} };
    expect(asCurl(operation({ body }), given({ body: `{"a": "it's"}` }), "http://a")).toBe(
      [
        "curl --request POST 'http://a/v1/cats/a%2Fb%401?id=x&id=y'",
        '--header "Authorization: Bearer $KARTINA_TOKEN"',
        "--header 'prefer: wait=9'",
        "--header 'Content-Type: application/json'",
        `--data '{"a": "it'\\''s"}'`,
      ].join(" \\\n  "),
    );
    const file = new File(["x"], "cat.png");
    const form = operation({ body: { type: FORM, schema: {} } });
    expect(asCurl(form, given({ parts: { file } }), "http://a")).toContain("--form 'file=@cat.png'");
    const part = operation({ body: { type: "application/partial-upload", schema: {} } });
    expect(asCurl(part, given({ file }), "http://a")).toContain("--data-binary '@cat.png'");
    expect(asCurl(operation({ method: "HEAD" }), given(), "http://a")).toMatch(/^curl --head 'http/);
  });
});
