import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { act, renderHook } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { client, type Model } from "@/client/client";
import type { InputKind } from "@/lib/tasks";
import { keepDraft, newDraft, readDraft } from "./draft";
import { placeFor, useInputs } from "./useInputs";

const task = (...inputs: string[]) => ({ inputs, schema: {}, defaults: {} });
const model = {
  ref: "inputs@1",
  classes: [],
  tasks: { inpaint: task("image", "mask"), morph: task("image", "to_image") },
} as unknown as Model;
const given = (id: string) => ({ id, url: `/v1/assets/${id}`, width: 8, height: 8, note: "" });

/** The uploads so far, each to be ended by the test. */
const sent: { land: (id: string) => Promise<void>; fail: () => Promise<void> }[] = [];

beforeEach(() => {
  vi.spyOn(client, "POST").mockImplementation((() => {
    let resolve: (answer: unknown) => void = () => undefined;
    const promise = new Promise<unknown>((end) => {
      resolve = end;
    });
    const end = (answer: unknown) =>
      act(async () => {
        resolve(answer);
        await promise;
        await new Promise((later) => setTimeout(later));
      });
    sent.push({
      land: (id) => end({ data: given(id), response: { ok: true } }),
      fail: () => end({ error: { code: "too_large" }, response: { ok: false, status: 413 } }),
    });
    return promise;
  }) as never);
});
afterEach(() => {
  vi.restoreAllMocks();
  sent.length = 0;
});

async function open(name: string, inputs: Partial<Record<InputKind, ReturnType<typeof given>>> = {}) {
  keepDraft(model, name, { ...newDraft(model, name), inputs });
  const wrapper = ({ children }: { children: React.ReactNode }) => (
    <QueryClientProvider client={new QueryClient()}>{children}</QueryClientProvider>
  );
  const { result } = renderHook(() => useInputs(model, name), { wrapper });
  return {
    give: (kind?: InputKind) => act(async () => result.current.give(new Blob(), kind)),
    of: (kind: InputKind) => result.current.of(kind),
    has: () => {
      const found = readDraft(model, name).inputs;
      return Object.fromEntries(Object.entries(found).map(([kind, { id }]) => [kind, id]));
    },
    remove: () => act(() => keepDraft(model, name, { ...readDraft(model, name), inputs: {} })),
  };
}

describe("uploads", () => {
  it("of one input: the latest is used, whichever lands last", async () => {
    const page = await open("inpaint");
    await page.give("image");
    await page.give("image");
    await sent[1]?.land("small");
    await sent[0]?.land("large");
    expect(page.has()).toEqual({ image: "small" });
    expect(page.of("image").pending).toBe(false);
  });

  it("without a place go to the first input that has nothing and gets nothing", async () => {
    const page = await open("morph");
    await page.give();
    await page.give();
    expect(page.of("image").pending && page.of("to_image").pending).toBe(true);
    await sent[1]?.land("second");
    await sent[0]?.land("first");
    expect(page.has()).toEqual({ image: "first", to_image: "second" });
  });

  it("without a place never are a mask", async () => {
    await open("inpaint", { image: given("old") });
    expect(placeFor(model, "inpaint")).toBe("image");
  });

  it("keep the problem of each input until it is dismissed", async () => {
    const page = await open("morph");
    await page.give("image");
    await page.give("to_image");
    await sent[0]?.fail();
    await sent[1]?.land("end");
    expect(page.of("image").problem?.error).toMatchObject({ problem: { status: 413 } });
    expect(page.of("to_image")).toEqual({ pending: false, problem: null });
    expect(page.has()).toEqual({ to_image: "end" });
    await act(async () => page.of("image").problem?.retry());
    expect(page.of("image")).toEqual({ pending: true, problem: null });
    await sent[2]?.fail();
    act(() => page.of("image").problem?.dismiss());
    expect(page.of("image")).toEqual({ pending: false, problem: null });
  });

  it("of an input that was emptied meanwhile are not used", async () => {
    const page = await open("inpaint", { image: given("old") });
    await page.give("image");
    page.remove();
    expect(page.of("image").pending).toBe(false);
    await sent[0]?.land("new");
    expect(page.has()).toEqual({});
  });

  it("of a mask are used over no other image", async () => {
    const page = await open("inpaint", { image: given("old") });
    await page.give("mask");
    await page.give("image");
    await sent[1]?.land("new");
    await sent[0]?.land("mask");
    expect(page.has()).toEqual({ image: "new" });
    await page.give("mask");
    await page.give("image");
    await sent[2]?.land("mask");
    await sent[3]?.land("newer");
    expect(page.has()).toEqual({ image: "newer" });
  });
});
