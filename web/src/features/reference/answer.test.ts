import { describe, expect, it } from "vitest";
import { type Answer, MOST, readAnswer } from "./answer";

async function read(response: Response): Promise<Answer[]> {
  const told: Answer[] = [];
  await readAnswer(response, (answer) => told.push(answer));
  return told;
}
const typed = (type: string, body: BodyInit | null, status = 200) =>
  new Response(body, { status, headers: { "content-type": type } });

describe("an answer", () => {
  it("is JSON with its lines, problems too", async () => {
    const found = (await read(typed("application/problem+json", '{"code":"x"}', 404))).at(-1);
    expect(found).toMatchObject({ status: 404, text: '{\n  "code": "x"\n}', file: null, complete: true });
  });

  it("is told while it comes", async () => {
    const pieces = ["event: status\n", "data: {}\n\n"].map((piece) => new TextEncoder().encode(piece));
    const body = new ReadableStream({
      pull(controller) {
        const piece = pieces.shift();
        if (piece) controller.enqueue(piece);
        else controller.close();
      },
    });
    const found = await read(typed("text/event-stream; charset=utf-8", body));
    const whole = "event: status\ndata: {}\n\n";
    expect(found.map(({ text }) => text)).toEqual(["", "event: status\n", whole, whole]);
    expect(found.map(({ complete }) => complete)).toEqual([false, false, false, true]);
  });

  it("is a file where it is no text, and shortened where it is long", async () => {
    const image = (await read(typed("image/png", new Uint8Array([1, 2])))).at(-1);
    expect(image).toMatchObject({ text: null, complete: true });
    expect(image?.file?.size).toBe(2);
    const long = (await read(typed("text/csv", "x".repeat(MOST + 1)))).at(-1);
    expect(long?.text?.length).toBe(MOST);
    expect(long?.file?.size).toBe(MOST + 1);
  });

  it("may be nothing", async () => {
    const nothing = (await read(new Response(null, { status: 204 }))).at(-1);
    expect(nothing).toMatchObject({ status: 204, text: null, file: null, complete: true });
  });
});
