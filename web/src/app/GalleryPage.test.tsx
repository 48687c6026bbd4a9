import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import {
  createMemoryHistory,
  createRootRoute,
  createRoute,
  createRouter,
  RouterProvider,
} from "@tanstack/react-router";
import { configure, fireEvent, render, screen, waitFor } from "@testing-library/react";
import type { ReactNode } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { client as http } from "@/client/client";
import type { GalleryImage } from "@/features/gallery/api/listImages";
import { image } from "@/features/gallery/testImages";
import { only } from "@/lib/address";
import { DeleteForever, GalleryPage } from "./GalleryPage";

configure({ asyncUtilTimeout: 10_000 }); // the whole page is drawn
vi.setConfig({ testTimeout: 30_000 });

const ok = (data: unknown) => ({ data, response: new Response() });

let stored: GalleryImage[]; // what the service has
let listed: string[]; // ids of what it lists; favourites only in their view
let broken: boolean;

beforeEach(() => {
  broken = false;
  vi.spyOn(http, "GET").mockImplementation((async (
    path: string,
    init: { params: { path: { id: string }; query: { favourite?: boolean } } },
  ) => {
    if (broken) return { error: { title: "Disk full" }, response: new Response(null, { status: 507 }) };
    if (path === "/v1/images") {
      const items = stored.filter((one) => listed.includes(one.id));
      return ok({ items: items.filter((one) => one.favourite || !init.params.query.favourite) });
    }
    if (path === "/v1/images/{id}/about") return ok(stored.find(({ id }) => id === init.params.path.id));
    if (path === "/v1/models") return ok({ items: [], next_cursor: null });
    return { error: { title: "Unknown" }, response: new Response(null, { status: 404 }) };
  }) as never);
  vi.spyOn(http, "PATCH").mockImplementation((async (
    _path: string,
    { body }: { body: { ids: string[]; change: string } },
  ) => {
    stored = stored.map((one) =>
      body.ids.includes(one.id) ? { ...one, favourite: body.change === "favourite" } : one,
    );
    return ok({ changed: body.ids.length });
  }) as never);
});
afterEach(() => vi.restoreAllMocks());

function page(children: ReactNode) {
  const client = new QueryClient({ defaultOptions: { queries: { staleTime: 60_000, retry: false } } });
  return (
    <MantineProvider env="test">
      <QueryClientProvider client={client}>{children}</QueryClientProvider>
    </MantineProvider>
  );
}

function visit(address: string) {
  const root = createRootRoute();
  const gallery = createRoute({
    getParentRoute: () => root,
    path: "/gallery",
    validateSearch: (search: Record<string, string>) => only(search, ["view", "image"]),
    component: GalleryPage,
  });
  const history = createMemoryHistory({ initialEntries: [address] });
  const router = createRouter({ routeTree: root.addChildren([gallery]), history });
  render(page(<RouterProvider router={router as never} />));
  return router;
}

const pressed = () => screen.getByRole("button", { name: "Favourite" }).getAttribute("aria-pressed");

describe("an open picture", () => {
  it("that the list does not have shows that it is a favourite now", async () => {
    stored = [image("gen_a", 0)];
    listed = [];
    visit("/gallery?image=gen_a-0");
    fireEvent.keyDown(await screen.findByRole("button", { name: "Favourite" }), { key: "а", code: "KeyF" });
    await waitFor(() => expect(pressed()).toBe("true"));
    expect(stored[0]?.favourite).toBe(true);
    fireEvent.keyDown(window, { key: "f", code: "KeyF" });
    await waitFor(() => expect(pressed()).toBe("false"));
    expect(stored[0]?.favourite).toBe(false);
  });

  it("that is no favourite any more gives way to the next one, without closing", async () => {
    stored = [2, 1, 0].map((index) => ({ ...image("gen_a", index), favourite: true }));
    listed = stored.map(({ id }) => id);
    const router = visit("/gallery?view=favourites&image=gen_a-1");
    await screen.findByRole("dialog", { name: "Picture 2 of 3" });
    let closed = 0;
    const watch = new MutationObserver(() => {
      if (!screen.queryByRole("dialog")) closed += 1;
    });
    watch.observe(document.body, { subtree: true, childList: true, attributes: true });
    fireEvent.keyDown(window, { key: "f", code: "KeyF" });
    await screen.findByRole("dialog", { name: "Picture 2 of 2" });
    watch.disconnect();
    expect(closed).toBe(0);
    expect(router.state.location.search).toEqual({ view: "favourites", image: "gen_a-0" });
    expect(stored.map(({ favourite }) => favourite)).toEqual([true, false, true]);
  });
});

it("does not offer to empty the trash in another question", async () => {
  const onDelete = vi.fn();
  const asking = (doomed: GalleryImage[] | "all" | null) =>
    page(<DeleteForever doomed={doomed} filters={{}} onClose={() => undefined} onDelete={onDelete} />);
  broken = true;
  const { rerender } = render(asking("all"));
  fireEvent.click(await screen.findByRole("button", { name: "Delete for good" }));
  await screen.findByRole("button", { name: "Try again" });
  fireEvent.click(screen.getByRole("button", { name: "Keep" }));
  rerender(asking(null));
  rerender(asking([image("gen_a", 0)]));
  await screen.findByText("Delete 1 picture for good?");
  expect(screen.queryByRole("button", { name: "Try again" })).toBeNull();
  rerender(asking("all"));
  expect(screen.queryByRole("button", { name: "Try again" })).toBeNull();
});
