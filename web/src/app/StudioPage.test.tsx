import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import {
  createMemoryHistory,
  createRootRoute,
  createRoute,
  createRouter,
  RouterProvider,
} from "@tanstack/react-router";
import { act, render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, it, vi } from "vitest";
import { client, type Model } from "@/client/client";
import { MODELS_KEY } from "@/features/models/api/listModels";
import { StudioPage } from "./StudioPage";

const model = {
  ref: "many@1",
  name: "many",
  classes: Array.from({ length: 20 }, (_, index) => `class ${index}`),
  image: { width: 28, height: 28, channels: 1 },
  family: "vae",
  data: { name: "many" },
  metrics: {},
  tasks: { generate: { inputs: [], schema: {}, defaults: {} } },
  urls: { classes: [] },
} as unknown as Model;

it("stays when the models cannot be fetched again", async () => {
  const person = userEvent.setup();
  vi.spyOn(window, "scrollTo").mockImplementation(() => undefined); // jsdom has none
  vi.spyOn(client, "GET").mockRejectedValue(new TypeError("no answer"));
  const queries = new QueryClient({ defaultOptions: { queries: { retry: false, staleTime: 30_000 } } });
  queries.setQueryData(MODELS_KEY, [model]);
  const root = createRootRoute();
  const page = createRoute({ getParentRoute: () => root, path: "/", component: StudioPage });
  const router = createRouter({
    routeTree: root.addChildren([page]),
    history: createMemoryHistory({ initialEntries: ["/"] }),
  });
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={queries}>
        <RouterProvider router={router as never} />
      </QueryClientProvider>
    </MantineProvider>,
  );
  await person.type(await screen.findByRole("searchbox"), "class 7");
  expect(await screen.findAllByRole("alert")).toHaveLength(1); // the history has no answer either
  await act(() => queries.refetchQueries({ queryKey: MODELS_KEY }));
  await waitFor(() => expect(screen.getAllByRole("alert")).toHaveLength(2));
  expect(screen.getByRole("searchbox")).toHaveProperty("value", "class 7");
  vi.restoreAllMocks();
});
