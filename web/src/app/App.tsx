/** Providers around the pages; a lost session leads back to the door. */
import { MantineProvider } from "@mantine/core";
import { MutationCache, QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { SESSION_KEY } from "@/features/session/key";
import { problemOf } from "@/lib/problem";
import { router } from "./router";
import { theme } from "./theme";

function makeClient(): QueryClient {
  const onError = (error: unknown) => {
    if (problemOf(error).status === 401) client.setQueryData(SESSION_KEY, { kind: "out", refused: false });
  };
  const client = new QueryClient({
    queryCache: new QueryCache({ onError }),
    mutationCache: new MutationCache({ onError }),
    defaultOptions: {
      queries: {
        staleTime: 30_000,
        retry: (failures, error) => problemOf(error).status >= 500 && failures < 2,
        networkMode: "always", // the service is on this machine: it answers without a network
      },
      mutations: { networkMode: "always" },
    },
  });
  return client;
}

const queries = makeClient();

export function App() {
  return (
    <MantineProvider defaultColorScheme="auto" theme={theme}>
      <QueryClientProvider client={queries}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </MantineProvider>
  );
}
