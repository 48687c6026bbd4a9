/** The pages and what of their state is in the address. */
import {
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
} from "@tanstack/react-router";
import { Toasts } from "@/components/Toasts";
import { SessionGate } from "@/features/session/components/SessionGate";
import { only, parseSearch, type Search, stringifySearch } from "@/lib/address";
import { GalleryPage } from "./GalleryPage";
import { Header } from "./Header";
import { NotFoundPage } from "./NotFoundPage";
import { StudioPage } from "./StudioPage";

const STUDIO = ["model", "task", "generation"] as const;
const GALLERY = ["view", "model", "label", "since", "until", "image"] as const;
const DOCS = ["operation"] as const;

const root = createRootRoute({
  component: () => (
    <>
      <Header />
      <SessionGate>
        <Outlet />
      </SessionGate>
      <Toasts />
    </>
  ),
  notFoundComponent: NotFoundPage,
});

export const studioRoute = createRoute({
  getParentRoute: () => root,
  path: "/",
  validateSearch: (search: Search) => only(search, STUDIO),
  component: StudioPage,
});

export const galleryRoute = createRoute({
  getParentRoute: () => root,
  path: "/gallery",
  validateSearch: (search: Search) => only(search, GALLERY),
  component: GalleryPage,
});

const docsRoute = createRoute({
  getParentRoute: () => root,
  path: "/docs",
  validateSearch: (search: Search) => only(search, DOCS),
  component: lazyRouteComponent(() => import("./DocsPage"), "DocsPage"), // loaded by those who open it
});

export const router = createRouter({
  routeTree: root.addChildren([studioRoute, galleryRoute, docsRoute]),
  parseSearch,
  stringifySearch,
  scrollRestoration: true,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
