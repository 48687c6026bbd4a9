import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { act, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { expect, it, vi } from "vitest";
import text from "@/../openapi.json?raw";
import { DOCUMENT_KEY } from "../api/getDocument";
import { Reference } from "./Reference";

it("keeps what was typed when the document cannot be fetched again", async () => {
  const person = userEvent.setup();
  const queries = new QueryClient({ defaultOptions: { queries: { retry: false, staleTime: 30_000 } } });
  queries.setQueryData(DOCUMENT_KEY, JSON.parse(text));
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={queries}>
        <Reference onOpen={() => undefined} opened={undefined} />
      </QueryClientProvider>
    </MantineProvider>,
  );
  await person.type(screen.getByRole("searchbox"), "asset");
  vi.spyOn(globalThis, "fetch").mockRejectedValue(new TypeError("no answer"));
  await act(() => queries.refetchQueries({ queryKey: DOCUMENT_KEY }));
  expect(await screen.findByRole("alert")).toBeTruthy();
  expect(screen.getByRole("searchbox")).toHaveProperty("value", "asset");
  vi.restoreAllMocks();
});
