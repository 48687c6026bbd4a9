/** The images that the filters leave, and what can be done to them: at once on the page, undone where that is possible. */
import { type QueryClient, useInfiniteQuery, useMutation, useQueryClient } from "@tanstack/react-query";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { toast } from "@/components/toast";
import { problemOf } from "@/lib/problem";
import { type Change, changeImages } from "./api/changeImages";
import { type GalleryImage, IMAGES_KEY, listImages } from "./api/listImages";
import { type Filters, queryOf } from "./filters";
import { changed, type Pages, put, without } from "./pages";

const keyOf = (filters: Filters) => [...IMAGES_KEY, queryOf(filters)] as const;

interface Act {
  images: GalleryImage[];
  change: Change;
  undoable?: boolean;
}

/** What a change makes of the list that is shown. */
function applied(data: Pages, { images, change }: Act, trash: boolean, favourites: boolean): Pages {
  const ids = new Set(images.map(({ id }) => id));
  switch (change) {
    case "delete":
      return without(data, ids);
    case "trash":
      return trash ? put(data, images) : without(data, ids);
    case "restore":
      return trash ? without(data, ids) : put(data, images);
    case "favourite":
      return changed(favourites ? put(data, images) : data, ids, { favourite: true });
    case "ordinary":
      return favourites ? without(data, ids) : changed(data, ids, { favourite: false });
  }
}

const INVERSE = { trash: "restore", restore: "trash" } as const;

export function useGallery(filters: Filters) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const key = keyOf(filters);
  const trash = filters.view === "trash";
  const list = useInfiniteQuery({
    queryKey: key,
    queryFn: ({ pageParam }) => listImages(queryOf(filters), pageParam),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor ?? null,
  });
  const images = useMemo(() => list.data?.pages.flatMap((page) => page.items) ?? [], [list.data]);

  const act = useMutation({
    mutationFn: ({ images, change }: Act) =>
      changeImages(
        images.map(({ id }) => id),
        change,
      ),
    onMutate: (asked) => {
      const before = client.getQueryData<Pages>(key);
      client.setQueryData<Pages>(
        key,
        (data) => data && applied(data, asked, trash, filters.view === "favourites"),
      );
      return { before };
    },
    onSuccess: (_count, { images: done, change, undoable = true }) => {
      stale(client, key);
      if (change !== "trash" && change !== "restore" && change !== "delete") return;
      const text = t(`gallery.done_${change}`, { count: done.length });
      const undo =
        undoable && change !== "delete"
          ? {
              label: t("gallery.undo"),
              run: () => act.mutate({ images: done, change: INVERSE[change], undoable: false }),
            }
          : undefined;
      toast(text, { action: undo });
    },
    onError: (error, _asked, context) => {
      client.setQueryData(key, context?.before);
      const { title, detail } = problemOf(error);
      toast(problemOf(error).code === "offline" ? t("problem.offline") : detail || title, { bad: true });
    },
  });
  return { list, images, act: (images: GalleryImage[], change: Change) => act.mutate({ images, change }) };
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
