/** All stored images: found, looked at, kept, thrown away and taken back, drawn again. */
import { Button, Modal } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate, useRouter } from "@tanstack/react-router";
import { type ReactNode, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import type { Job } from "@/client/client";
import empty from "@/components/Empty.module.css";
import { IconDownload, IconPlay, IconTrash } from "@/components/icons";
import { PixelPicture } from "@/components/PixelPicture";
import { ProblemNotice } from "@/components/ProblemNotice";
import { toast } from "@/components/toast";
import { useFileDrop } from "@/components/useFileDrop";
import type { Change } from "@/features/gallery/api/changeImages";
import { getImage, imageKey } from "@/features/gallery/api/getImage";
import { type GalleryImage, IMAGES_KEY } from "@/features/gallery/api/listImages";
import { Detail } from "@/features/gallery/components/Detail";
import { FilterBar } from "@/features/gallery/components/FilterBar";
import { Grid } from "@/features/gallery/components/Grid";
import { SelectionBar } from "@/features/gallery/components/SelectionBar";
import { type Filters, filtersSet, zipUrl } from "@/features/gallery/filters";
import { everything, NOTHING, pruned, ranged, toggled } from "@/features/gallery/selection";
import { emptyTrash, useGallery } from "@/features/gallery/useGallery";
import { createGeneration, wishFrom } from "@/features/generate/api/createGeneration";
import { runFile } from "@/features/generate/api/runFile";
import { draftOf, keepDraft } from "@/features/generate/draft";
import { remember } from "@/features/generate/useGeneration";
import { HISTORY_KEY } from "@/features/history/api/listGenerations";
import { listModels, MODELS_KEY } from "@/features/models/api/listModels";
import { taskOf } from "@/lib/tasks";
import styles from "./GalleryPage.module.css";

const route = getRouteApi("/gallery");

export function GalleryPage() {
  const { t } = useTranslation();
  const { image: openId, ...filters } = route.useSearch();
  const navigate = route.useNavigate();
  const trash = filters.view === "trash";
  const models = useQuery({ queryKey: MODELS_KEY, queryFn: listModels }).data ?? [];
  const { list, images, act } = useGallery(filters);
  const order = useMemo(() => images.map(({ id }) => id), [images]);
  const [chosen, setChosen] = useState(NOTHING);
  const selection = pruned(chosen, order);
  const selected = images.filter(({ id }) => selection.ids.has(id));
  const [doomed, setDoomed] = useState<GalleryImage[] | "all" | null>(null); // to be deleted for good: asked first
  const start = useStart();
  const chooser = useRef<HTMLInputElement>(null);
  const overlay = useFileDrop(start.file, t("drop.again"));
  const openedHere = useRef(false);
  const router = useRouter();

  const filter = (changes: Filters, replace = false) => {
    setChosen(NOTHING);
    void navigate({
      search: (old) => defined({ ...old, ...changes, image: undefined }),
      replace,
      resetScroll: true,
    });
  };
  const open = (id: string, replace = false) => {
    openedHere.current = openedHere.current || !replace;
    void navigate({ search: (old) => ({ ...old, image: id }), replace, resetScroll: false });
  };
  const close = () => {
    if (openedHere.current) router.history.back();
    else void navigate({ search: ({ image: _closed, ...old }) => old, replace: true, resetScroll: false });
    openedHere.current = false;
  };
  const change = (which: GalleryImage[], how: Change) => {
    if (how === "delete") return setDoomed(which);
    act(which, how);
  };

  const at = openId === undefined ? -1 : order.indexOf(openId);
  const alone = useQuery({
    queryKey: imageKey(openId ?? ""),
    queryFn: () => getImage(openId ?? ""),
    enabled: openId !== undefined && at < 0 && list.isSuccess,
  });
  const shown = images[at] ?? (openId === undefined ? undefined : alone.data);
  const step = (by: 1 | -1) => {
    const next = images[at + by];
    if (next) open(next.id, true);
    if (at + 3 > images.length && list.hasNextPage) void list.fetchNextPage();
  };
  const leaving = useRef<string>(undefined); // the open picture that is on its way out
  // biome-ignore lint/correctness/useExhaustiveDependencies: it is out when another one is open, or none
  useEffect(() => {
    leaving.current = undefined;
  }, [openId]);
  /** Of an open picture: the next one takes its place. A second key that comes before that is not meant for either. */
  const changeOpen = (image: GalleryImage, how: Change) => {
    if (leaving.current === image.id) return;
    if (how === "delete") return setDoomed([image]);
    const leaves =
      how === "trash" || how === "restore" || (how === "ordinary" && filters.view === "favourites");
    if (!leaves) return act([image], how);
    leaving.current = image.id;
    const next = images[at + 1] ?? images[at - 1];
    act([image], how);
    if (next && at >= 0) open(next.id, true);
    else close();
  };
  const { fetchNextPage, isFetchingNextPage } = list;
  const more = useCallback(() => {
    if (!isFetchingNextPage) void fetchNextPage();
  }, [fetchNextPage, isFetchingNextPage]);

  return (
    <main className={styles.page} id="main" tabIndex={-1}>
      <title>{`${t("app.gallery")} · Kartina`}</title>
      {overlay}
      <header className={styles.head}>
        <h1>{t("app.gallery")}</h1>
        <div className={styles.actions}>
          <Button
            leftSection={<IconPlay size={16} />}
            loading={start.pending}
            onClick={() => chooser.current?.click()}
            size="sm"
            variant="default"
          >
            {t("history.from_file")}
          </Button>
          <input
            accept="image/png,image/webp"
            aria-label={t("history.from_file")}
            hidden
            onChange={(event) => {
              const [file] = event.currentTarget.files ?? [];
              if (file) start.file(file);
              event.currentTarget.value = "";
            }}
            ref={chooser}
            type="file"
          />
          {images.length > 0 &&
            (trash ? (
              <Button
                leftSection={<IconTrash size={16} />}
                onClick={() => setDoomed("all")}
                size="sm"
                variant="default"
              >
                {t("gallery.empty_trash")}
              </Button>
            ) : (
              <Button
                component="a"
                download
                href={zipUrl(filters)}
                leftSection={<IconDownload size={16} />}
                size="sm"
                variant="default"
              >
                {t("gallery.zip_all")}
              </Button>
            ))}
        </div>
      </header>
      <FilterBar filters={filters} models={models} onChange={filter} />
      {start.error !== null && <ProblemNotice error={start.error} onDismiss={start.dismiss} />}
      {alone.isError && <ProblemNotice error={alone.error} onDismiss={close} />}
      {trash && images.length > 0 && <p className={styles.note}>{t("gallery.trash_note")}</p>}
      {list.isError && <ProblemNotice error={list.error} onRetry={() => list.refetch()} />}
      {list.isPending && <Blanks />}
      {list.isSuccess && images.length === 0 && !list.hasNextPage && (
        <Nothing
          filters={filters}
          onClear={() => filter({ model: undefined, label: undefined, since: undefined, until: undefined })}
        />
      )}
      {(images.length > 0 || list.hasNextPage) && (
        <Grid
          images={images}
          more={list.hasNextPage}
          onClear={() => setChosen(NOTHING)}
          onFavourite={(image) => !trash && change([image], image.favourite ? "ordinary" : "favourite")}
          onMore={more}
          onOpen={(image) => open(image.id)}
          onSelect={(image, range) =>
            setChosen((old) => {
              const now = pruned(old, order);
              return range ? ranged(now, image.id, order) : toggled(now, image.id);
            })
          }
          onSelectAll={() => setChosen(everything(order))}
          onTrash={(image) =>
            change(selection.ids.has(image.id) ? selected : [image], trash ? "delete" : "trash")
          }
          selected={selection.ids}
        />
      )}
      {selected.length > 0 && (
        <SelectionBar
          images={selected}
          onAct={(how) => {
            change(selected, how);
            if (how !== "delete") setChosen(NOTHING);
          }}
          onClear={() => setChosen(NOTHING)}
          trash={trash}
          zip={zipUrl({}, [...selection.ids])}
        />
      )}
      <Detail
        asking={doomed !== null}
        has={{ previous: at > 0, next: at >= 0 && at < images.length - 1 }}
        image={shown}
        models={models}
        onAct={changeOpen}
        onAgain={start.request}
        onClose={close}
        onStep={step}
        onStudio={(request) => {
          const model = models.find(({ ref }) => ref === request.model);
          if (!model) return;
          const task = taskOf(model, request.task);
          keepDraft(model, task, draftOf(model, request));
          start.studio({ model: model.ref, task });
        }}
        place={
          at < 0
            ? t("gallery.one_picture")
            : list.hasNextPage
              ? t("gallery.place_of_more", { number: at + 1 })
              : t("lightbox.title", { number: at + 1, count: images.length })
        }
      />
      <DeleteForever
        doomed={doomed}
        filters={filters}
        onClose={() => setDoomed(null)}
        onDelete={(which) => {
          if (shown && which.some(({ id }) => id === shown.id)) close();
          act(which, "delete");
          setChosen(NOTHING);
        }}
      />
    </main>
  );
}

function defined<T extends object>(search: T): T {
  return Object.fromEntries(Object.entries(search).filter(([, value]) => value !== undefined)) as T;
}

/** Ways from a picture to the studio: made again, made from its file, or laid into the panel. */
function useStart() {
  const client = useQueryClient();
  const navigate = useNavigate();
  const studio = (search: { model: string; task?: string; generation?: string }) => {
    const { task, ...rest } = search;
    void navigate({ to: "/", search: task === undefined || task === "generate" ? rest : search });
  };
  const started = (job: Job) => {
    remember(client, job);
    void client.invalidateQueries({ queryKey: HISTORY_KEY });
    studio({ model: job.request.model, task: job.request.task, generation: job.id });
  };
  const again = useMutation({
    mutationFn: (request: Job["request"]) => createGeneration(wishFrom(request)),
    onSuccess: started,
  });
  const file = useMutation({ mutationFn: runFile, onSuccess: started });
  return {
    request: again.mutate,
    file: (one: File) => file.mutate(one),
    studio,
    pending: again.isPending || file.isPending,
    error: again.error ?? file.error,
    dismiss: () => {
      again.reset();
      file.reset();
    },
  };
}

function Blanks() {
  const { t } = useTranslation();
  return (
    <div aria-label={t("app.loading")} className={styles.blanks} role="status">
      {Array.from({ length: 24 }, (_, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: blanks are all the same
        <span key={at} />
      ))}
    </div>
  );
}

function Nothing({ filters, onClear }: { filters: Filters; onClear: () => void }) {
  const { t } = useTranslation();
  const said = (title: string, lead: string, way: ReactNode) => (
    <section className={empty.empty}>
      <PixelPicture />
      <h2>{title}</h2>
      <p>{lead}</p>
      {way}
    </section>
  );
  const studio = (
    <Link className={empty.link} to="/">
      {t("gallery.to_studio")}
    </Link>
  );
  if (filtersSet(filters) > 0)
    return said(
      t("gallery.none_match"),
      t("gallery.none_match_lead"),
      <Button onClick={onClear} variant="default">
        {t("gallery.clear")}
      </Button>,
    );
  if (filters.view === "trash") return said(t("gallery.none_trash"), t("gallery.none_trash_lead"), null);
  if (filters.view === "favourites")
    return said(t("gallery.none_favourites"), t("gallery.none_favourites_lead"), null);
  return said(t("gallery.none"), t("gallery.none_lead"), studio);
}

interface DeleteProps {
  doomed: GalleryImage[] | "all" | null;
  filters: Filters;
  onClose: () => void;
  onDelete: (images: GalleryImage[]) => void;
}

/** What cannot be undone is asked about first. */
export function DeleteForever({ doomed, filters, onClose, onDelete }: DeleteProps) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const all = useMutation({
    mutationFn: () => emptyTrash(filters),
    onSuccess: (count) => toast(t("gallery.done_delete", { count })),
    onSettled: () => void client.invalidateQueries({ queryKey: IMAGES_KEY }),
  });
  const close = () => {
    all.reset(); // its answer is not the next question's
    onClose();
  };
  const emptyAll = () => all.mutate(undefined, { onSuccess: close });
  const kept = useRef(doomed);
  if (doomed !== null) kept.current = doomed;
  const asked = kept.current; // seen while it closes, too
  return (
    <Modal
      centered
      closeButtonProps={{ "aria-label": t("lightbox.close") }}
      onClose={close}
      opened={doomed !== null}
      title={
        asked !== "all"
          ? t("gallery.sure", { count: asked?.length ?? 0 })
          : filtersSet(filters) > 0
            ? t("gallery.sure_shown")
            : t("gallery.sure_all")
      }
      zIndex={320}
    >
      <p className={styles.sure}>{t("gallery.sure_lead")}</p>
      {asked === "all" && all.isError && <ProblemNotice error={all.error} onRetry={emptyAll} />}
      <div className={styles.choice}>
        <Button data-autofocus onClick={close} variant="default">
          {t("gallery.keep")}
        </Button>
        <Button
          className={styles.bad ?? ""}
          loading={all.isPending}
          onClick={() => {
            if (doomed === "all") return emptyAll();
            if (doomed) onDelete(doomed);
            close();
          }}
        >
          {t("gallery.delete")}
        </Button>
      </div>
    </Modal>
  );
}
