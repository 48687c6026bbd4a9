import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { act, renderHook, waitFor } from "@testing-library/react";
import type { ReactNode } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { client as http } from "@/client/client";
import { dismiss, readToasts } from "@/components/toast";
import { imageKey } from "./api/getImage";
import type { GalleryImage, GalleryPage } from "./api/listImages";
import type { Filters } from "./filters";
import { image } from "./testImages";
import { useGallery } from "./useGallery";

const ok = (data: unknown) => ({ data, response: new Response() });
const refused = { error: { title: "Disk full" }, response: new Response(null, { status: 507 }) };

let answers: ((answer: unknown) => void)[]; // to changes, in their order
let page: (query: Record<string, unknown>) => GalleryPage | Promise<GalleryPage>;
let asked: Record<string, unknown>[];
let client: QueryClient;

beforeEach(() => {
  answers = [];
  asked = [];
  client = new QueryClient({ defaultOptions: { queries: { staleTime: 60_000, retry: false } } });
  vi.spyOn(http, "GET").mockImplementation((async (_path: string, init: { params: { query: object } }) => {
    const query = { ...init.params.query };
    asked.push(query);
    return ok(await page(query));
  }) as never);
  vi.spyOn(http, "PATCH").mockImplementation(
    (() => new Promise((resolve) => answers.push(resolve))) as never,
  );
});

afterEach(() => {
  vi.restoreAllMocks();
  client.clear();
  for (const { id } of readToasts()) dismiss(id);
});

/** Does something, and lets the page hear of it. */
const settled = (run: () => void) =>
  act(async () => {
    run();
    await new Promise((resolve) => setTimeout(resolve, 5));
  });

function gallery(filters: Filters) {
  const wrapper = ({ children }: { children: ReactNode }) => (
    <QueryClientProvider client={client}>{children}</QueryClientProvider>
  );
  const hook = renderHook((shown: Filters) => useGallery(shown), { wrapper, initialProps: filters });
  return {
    ...hook,
    ids: () => hook.result.current.images.map(({ id }) => id).join(" "),
    act: (...change: Parameters<ReturnType<typeof useGallery>["act"]>) =>
      settled(() => hook.result.current.act(...change)),
    answer: (answer: unknown = ok({ changed: 1 })) => settled(() => answers.shift()?.(answer)),
  };
}

const [a, b, c] = [image("gen_c", 0), image("gen_b", 0), image("gen_a", 0)] as const;
const dog: GalleryImage = { ...a, id: "gen_d-0", generation: "gen_d", label: "dog" };
const items = (...images: GalleryImage[]): GalleryPage => ({ items: images, next_cursor: null });

describe("useGallery", () => {
  it("takes a change back in the list that it was made in, whichever is shown", async () => {
    page = ({ label }) => (label === "cat" ? items(a, b) : items(dog, a, b));
    const shown = gallery({});
    await waitFor(() => expect(shown.ids()).toBe("gen_d-0 gen_c-0 gen_b-0"));
    await shown.act([dog], "trash");
    await shown.answer();
    expect(shown.ids()).toBe("gen_c-0 gen_b-0");

    shown.rerender({ label: "cat" });
    await waitFor(() => expect(shown.ids()).toBe("gen_c-0 gen_b-0"));
    await settled(() => readToasts().at(-1)?.action?.run());
    expect(shown.ids()).toBe("gen_c-0 gen_b-0");
    await shown.answer();
    expect(shown.ids()).toBe("gen_c-0 gen_b-0");
    shown.rerender({});
    expect(shown.ids()).toBe("gen_d-0 gen_c-0 gen_b-0");
  });

  it("restores the list that a change was refused in, whichever is shown", async () => {
    page = ({ label }) => (label === "cat" ? items(a, b) : items(dog, a, b));
    const shown = gallery({});
    await waitFor(() => expect(shown.ids()).toBe("gen_d-0 gen_c-0 gen_b-0"));
    await shown.act([dog, a], "trash");
    expect(shown.ids()).toBe("gen_b-0");
    shown.rerender({ label: "cat" });
    await waitFor(() => expect(shown.ids()).toBe("gen_c-0 gen_b-0"));
    await shown.answer(refused);
    expect(shown.ids()).toBe("gen_c-0 gen_b-0");
    expect(readToasts().at(-1)).toMatchObject({ text: "Disk full", bad: true });
    shown.rerender({});
    expect(shown.ids()).toBe("gen_d-0 gen_c-0 gen_b-0");
  });

  it("keeps away what a page under way would bring back, and asks again", async () => {
    let next: (page: GalleryPage) => void = () => undefined;
    let trashed = false;
    page = ({ cursor }) => {
      if (cursor) return trashed ? items(c) : new Promise((resolve) => (next = resolve));
      return { items: trashed ? [b] : [a, b], next_cursor: "gen_b-0" };
    };
    const shown = gallery({});
    await waitFor(() => expect(shown.ids()).toBe("gen_c-0 gen_b-0"));
    act(() => void shown.result.current.list.fetchNextPage());
    await shown.act([a], "trash");
    expect(shown.ids()).toBe("gen_b-0");
    await settled(() => next(items(c)));
    expect(shown.ids()).toBe("gen_b-0");
    trashed = true;
    const before = asked.length;
    await shown.answer();
    await waitFor(() => expect(asked.length).toBeGreaterThan(before));
    expect(shown.ids()).toBe("gen_b-0");
  });

  it("asks for nothing again where it knows what became of the list", async () => {
    page = () => items(a, b);
    const shown = gallery({});
    await waitFor(() => expect(shown.ids()).toBe("gen_c-0 gen_b-0"));
    await shown.act([a], "favourite");
    await shown.act([b], "trash");
    await shown.answer();
    await shown.answer();
    expect(shown.result.current.images).toEqual([{ ...a, favourite: true }]);
    expect(asked).toHaveLength(1);
  });

  it("changes an image that no list has, and does not guess which lists want it", async () => {
    const loved = { ...dog, favourite: true };
    page = () => items();
    const shown = gallery({ view: "favourites", label: "cat" });
    await waitFor(() => expect(shown.result.current.list.isSuccess).toBe(true));
    client.setQueryData(imageKey(dog.id), dog);
    await shown.act([dog], "favourite");
    expect(client.getQueryData(imageKey(dog.id))).toEqual(loved);
    expect(shown.ids()).toBe("");
    await shown.answer();
    await waitFor(() => expect(asked).toHaveLength(2));
    await shown.act([loved], "ordinary");
    expect(client.getQueryData(imageKey(dog.id))).toEqual(dog);
    await shown.answer(refused);
    expect(client.getQueryData(imageKey(dog.id))).toEqual(loved);
  });
});
