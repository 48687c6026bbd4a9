/** The images that the filters leave, and what can be done to them: at once on the page, undone where that is possible. */
import { type QueryClient, useInfiniteQuery, useMutation, useQueryClient } from "@tanstack/react-query";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { toast } from "@/components/toast";
import { problemOf } from "@/lib/problem";
import { type Change, changeImages } from "./api/changeImages";
import { IMAGE_KEY, imageKey } from "./api/getImage";
import { type GalleryImage, IMAGES_KEY, listImages } from "./api/listImages";
import { type Filters, queryOf } from "./filters";
import { changed, type Pages, put, without } from "./pages";

const keyOf = (filters: Filters) => [...IMAGES_KEY, queryOf(filters)] as const;

interface Act {
  images: GalleryImage[];
  change: Change;
  filters: Filters; // of the list that it was asked in: another one may be shown when it is answered
  taken?: GalleryImage[]; // what that list had of them, where this takes a change back
}

/** What a change makes of the list that it was asked in. */
function applied(data: Pages, { images, change, filters, taken = [] }: Act): Pages {
  const ids = new Set(images.map(({ id }) => id));
  const trash = filters.view === "trash";
  switch (change) {
    case "delete":
      return without(data, ids);
    case "trash":
      return trash ? put(data, taken) : without(data, ids);
    case "restore":
      return trash ? without(data, ids) : put(data, taken);
    case "favourite":
      return changed(data, ids, { favourite: true });
    case "ordinary":
      return filters.view === "favourites" ? without(data, ids) : changed(data, ids, { favourite: false });
  }
}

/** What a change makes of one image. */
function appliedToOne(image: GalleryImage, change: Change): GalleryImage {
  switch (change) {
    case "delete":
      return image;
    case "trash":
      return { ...image, trashed_at: image.trashed_at ?? new Date().toISOString() };
    case "restore":
      return { ...image, trashed_at: null };
    case "favourite":
    case "ordinary":
      return { ...image, favourite: change === "favourite" };
  }
}

/** Whether a change may bring images into the list that it was asked in. */
function gains({ change, filters: { view } }: Act): boolean {
  return (
    change === (view === "trash" ? "trash" : "restore") || (change === "favourite" && view === "favourites")
  );
}

/** Those of the images that a list has. */
function among(data: Pages | undefined, images: readonly GalleryImage[]): GalleryImage[] {
  const ids = new Set(data?.pages.flatMap((page) => page.items.map(({ id }) => id)));
  return images.filter(({ id }) => ids.has(id));
}

const INVERSE = { trash: "restore", restore: "trash" } as const;

export function useGallery(filters: Filters) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const list = useInfiniteQuery({
    queryKey: keyOf(filters),
    queryFn: ({ pageParam }) => listImages(queryOf(filters), pageParam),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor ?? null,
  });
  const images = useMemo(() => list.data?.pages.flatMap((page) => page.items) ?? [], [list.data]);

  const act = useMutation({
    mutationKey: IMAGES_KEY,
    mutationFn: ({ images, change }: Act) =>
      changeImages(
        images.map(({ id }) => id),
        change,
      ),
    onMutate: (asked) => {
      const key = keyOf(asked.filters);
      const old = isOld(client, key);
      void client.cancelQueries({ queryKey: key, exact: true }); // at once: it would bring back what goes now
      const before = client.getQueryData<Pages>(key);
      const after = before && applied(before, asked);
      client.setQueryData<Pages>(key, after);
      if (old || (gains(asked) && among(after, asked.images).length < asked.images.length)) age(client, key);
      for (const { id } of asked.images)
        client.setQueryData<GalleryImage>(imageKey(id), (one) => one && appliedToOne(one, asked.change));
      return { key, before };
    },
    onSuccess: (_count, { images: done, change, filters, taken }, { key, before }) => {
      stale(client, key);
      if (change === "delete")
        for (const { id } of done) client.removeQueries({ queryKey: imageKey(id), exact: true });
      if (change !== "trash" && change !== "restore" && change !== "delete") return;
      const text = t(`gallery.done_${change}`, { count: done.length });
      const undo =
        taken === undefined && change !== "delete"
          ? {
              label: t("gallery.undo"),
              run: () =>
                act.mutate({ images: done, change: INVERSE[change], filters, taken: among(before, done) }),
            }
          : undefined;
      toast(text, { action: undo });
    },
    onError: (error, asked, context) => {
      if (context) {
        client.setQueryData(context.key, context.before);
        age(client, context.key); // other changes may have come since
      }
      for (const image of asked.images)
        client.setQueryData<GalleryImage>(imageKey(image.id), (one) => one && image);
      const { title, detail } = problemOf(error);
      toast(problemOf(error).code === "offline" ? t("problem.offline") : detail || title, { bad: true });
    },
    onSettled: (_count, _error, _asked, context) => {
      if (client.isMutating({ mutationKey: IMAGES_KEY }) > 1) return; // an answer now would lack the other changes
      void client.invalidateQueries({ queryKey: IMAGE_KEY });
      if (context && isOld(client, context.key))
        void client.invalidateQueries({ queryKey: context.key, exact: true });
    },
  });
  return {
    list,
    images,
    act: (images: GalleryImage[], change: Change) => act.mutate({ images, change, filters }),
  };
}

/** Whether a list is to be asked for again, or just is. */
function isOld(client: QueryClient, key: readonly unknown[]): boolean {
  const state = client.getQueryState(key);
  return state !== undefined && (state.isInvalidated || state.fetchStatus !== "idle");
}

/** Let a list be asked for again after the changes that are under way. */
function age(client: QueryClient, key: readonly unknown[]): void {
  void client.invalidateQueries({ queryKey: key, exact: true, refetchType: "none" });
}

/** Lists that are not shown now are asked for again when they are; so are the generations, which lose images. */
function stale(client: QueryClient, shown: readonly unknown[]): void {
  const other = (key: readonly unknown[]) => JSON.stringify(key) !== JSON.stringify(shown);
  void client.invalidateQueries({
    queryKey: IMAGES_KEY,
    predicate: ({ queryKey }) => other(queryKey),
  });
  void client.invalidateQueries({ queryKey: ["generation"], refetchType: "none" });
  void client.invalidateQueries({ queryKey: ["generations"], refetchType: "none" });
}

/** Everything in the trash, looked up page by page, deleted for good. Returns how many. */
export async function emptyTrash(filters: Filters): Promise<number> {
  let gone = 0;
  for (;;) {
    const page = await listImages(queryOf({ ...filters, view: "trash" }), null);
    if (page.items.length === 0) return gone;
    const done = await changeImages(
      page.items.map(({ id }) => id),
      "delete",
    );
    if (done === 0) return gone; // somebody else does it, too
    gone += done;
  }
}
