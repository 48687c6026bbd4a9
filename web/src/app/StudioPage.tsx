/** The studio: a shelf of models, a recipe, a wall of pictures, and what was drawn before. */
import { useHotkeys } from "@mantine/hooks";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { useCallback, useEffect, useRef } from "react";
import { useTranslation } from "react-i18next";
import type { Job, Model, OutputImage } from "@/client/client";
import { ProblemNotice } from "@/components/ProblemNotice";
import { toast } from "@/components/toast";
import { useFileDrop } from "@/components/useFileDrop";
import { IMAGES_KEY } from "@/features/gallery/api/listImages";
import { createAsset } from "@/features/generate/api/createAsset";
import { createGeneration, expectedJob, type Wish, wishFrom } from "@/features/generate/api/createGeneration";
import { runFile } from "@/features/generate/api/runFile";
import { Examples } from "@/features/generate/components/Examples";
import { RecipePanel } from "@/features/generate/components/RecipePanel";
import { Wall } from "@/features/generate/components/Wall";
import { draftOf, keepDraft, readDraft, useDraft, wishOf } from "@/features/generate/draft";
import { finished, watched } from "@/features/generate/progress";
import { remember, useGeneration } from "@/features/generate/useGeneration";
import { useInputs } from "@/features/generate/useInputs";
import { HISTORY_KEY } from "@/features/history/api/listGenerations";
import { Recent } from "@/features/history/components/Recent";
import { listModels, MODELS_KEY } from "@/features/models/api/listModels";
import { ModelShelf } from "@/features/models/components/ModelShelf";
import { NoModels } from "@/features/models/components/NoModels";
import { labelsText } from "@/lib/labels";
import { forGeneration } from "@/lib/seed";
import { inputsOf, taskOf, tasksOf } from "@/lib/tasks";
import { keepStudio } from "./lastStudio";
import styles from "./StudioPage.module.css";

const route = getRouteApi("/");

export function StudioPage() {
  const { t } = useTranslation();
  const models = useQuery({ queryKey: MODELS_KEY, queryFn: listModels });
  const first = models.data?.find((model) => "generate" in model.tasks) ?? models.data?.[0];
  return (
    <main className={styles.page} id="main" tabIndex={-1}>
      <title>{`${t("app.studio")} · Kartina`}</title>
      {models.isPending && (
        <div aria-label={t("app.loading")} className={styles.loading} role="status">
          <span />
          <span />
          <span />
        </div>
      )}
      {models.isError && <ProblemNotice error={models.error} onRetry={() => models.refetch()} />}
      {models.data && // after a failed refetch, too: what is under way on the page goes on
        (first ? (
          <Studio first={first} models={models.data} />
        ) : (
          <NoModels onRetry={() => models.refetch()} />
        ))}
    </main>
  );
}

function Studio({ models, first }: { models: Model[]; first: Model }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const panel = useRef<HTMLDivElement>(null);
  const wall = useRef<HTMLDivElement>(null);
  const model = models.find(({ ref }) => ref === search.model) ?? first;
  const task = taskOf(model, search.task);
  const draft = useDraft(model, task);
  const inputs = useInputs(model, task);
  useEffect(() => keepStudio(search), [search]);

  const go = (to: { model?: string; task?: string; generation?: string | undefined }) =>
    navigate({ search: (old) => clean({ ...old, ...to }), resetScroll: false });
  const refresh = useCallback(() => {
    void client.invalidateQueries({ queryKey: HISTORY_KEY });
    void client.invalidateQueries({ queryKey: IMAGES_KEY });
  }, [client]);
  const generation = useGeneration(search.generation, refresh);
  /** Until it hangs there, what is expected of it is shown. */
  const hang = async (job: Job) => {
    remember(client, job);
    refresh();
    await go({ model: job.request.model, task: job.request.task, generation: job.id });
    reveal(wall.current);
  };
  const create = useMutation({ mutationFn: createGeneration, onSuccess: hang });
  const rerun = useMutation({ mutationFn: runFile, onSuccess: hang });
  const busy = create.isPending || rerun.isPending;
  const { reset: forget } = create;
  const { reset: forgetFile } = rerun;
  // biome-ignore lint/correctness/useExhaustiveDependencies: a problem belongs to the panel that it came from
  useEffect(() => {
    forget();
    forgetFile();
  }, [model.ref, task]);

  const ask = (wish: Wish) => {
    if (busy) return;
    rerun.reset();
    create.mutate(wish);
  };
  const generate = () => {
    const ready = { ...draft, ...forGeneration(draft) };
    keepDraft(model, task, ready);
    ask(wishOf(model, task, ready));
  };
  useHotkeys([["mod+Enter", () => panel.current?.querySelector("form")?.requestSubmit()]], []);

  const startFrom = useMutation({
    mutationFn: async (output: OutputImage) => {
      const answer = await fetch(output.url, { credentials: "same-origin" });
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      return createAsset(await answer.blob(), "image");
    },
    onSuccess: (given) => {
      const wanted = [task, ...tasksOf(model)].find((name) => inputsOf(model, name).includes("image"));
      if (wanted === undefined) return;
      keepDraft(model, wanted, { ...readDraft(model, wanted), inputs: { image: given } });
      void go({ model: model.ref, task: wanted, generation: undefined });
      window.scrollTo({ top: 0 });
    },
    onError: (error) => toast(error.message, { bad: true }),
  });
  const takes = inputsOf(model, task).length > 0;
  const overlay = useFileDrop(
    (file) => (takes ? inputs.give(file) : rerun.mutate(file)),
    takes ? t("drop.input") : t("drop.again"),
    takes,
  );

  const modelOf = (job: Job) => models.find(({ ref }) => ref === job.request.model);
  const pending = create.isPending ? expectedJob(create.variables) : null;
  const shown = pending ? watched(pending) : generation.data;
  const underway = shown !== undefined && !finished(shown.job);
  useEffect(() => {
    if (underway) reveal(wall.current); // also where a link or the gallery led here
  }, [underway]);
  const wallKey = useWallKey(shown?.job.id);
  const problem = create.error ?? rerun.error;
  return (
    <>
      {overlay}
      <h1 className="visually-hidden">{t("app.studio")}</h1>
      <ModelShelf
        models={models}
        onSelect={({ ref }) => go({ model: ref, generation: undefined })}
        selected={model}
      />
      <div className={styles.studio}>
        <div className={styles.panel} ref={panel}>
          <RecipePanel
            draft={draft}
            error={problem}
            inputs={inputs}
            key={`${model.ref} ${task}`}
            model={model}
            onChange={(next) => keepDraft(model, task, next)}
            onDismiss={() => {
              create.reset();
              rerun.reset();
            }}
            onGenerate={generate}
            onTask={(next) => go({ model: model.ref, task: next, generation: undefined })}
            sending={busy}
            task={task}
          />
        </div>
        <div className={styles.wall} ref={wall}>
          {shown ? (
            <Wall
              key={wallKey}
              model={modelOf(shown.job)}
              onKeepSeed={(seed) => keepDraft(model, task, { ...draft, seed, locked: true })}
              onStartFrom={(output) => startFrom.mutate(output)}
              onUse={(job) => {
                const source = modelOf(job);
                if (!source) return;
                const name = taskOf(source, job.request.task);
                keepDraft(source, name, draftOf(source, job.request));
                void go({ model: source.ref, task: name });
                panel.current?.scrollIntoView({ block: "nearest" });
              }}
              onVary={(job, changes) => ask({ ...wishFrom(job.request), ...changes })}
              watched={shown}
            />
          ) : search.generation === undefined ? (
            <Examples model={model} task={task} />
          ) : generation.isError ? (
            <ProblemNotice
              error={generation.error}
              onDismiss={() => go({ generation: undefined })}
              onRetry={() => generation.refetch()}
            />
          ) : null}
        </div>
      </div>
      <Recent
        current={search.generation ?? null}
        labelsOf={(job) => labelsText(job.request.labels, modelOf(job)?.classes.length ?? 0, t)}
        onFile={(file) => rerun.mutate(file)}
        onOpen={(job) => {
          const source = modelOf(job) ?? model;
          void go({ model: source.ref, task: taskOf(source, job.request.task), generation: job.id });
          reveal(wall.current);
        }}
      />
    </>
  );
}

/** Another wall for each generation; but one from when it is asked for (its id is "" until then) to its end. */
function useWallKey(id: string | undefined): number {
  const wall = useRef({ id, key: 0 });
  if (id !== undefined && id !== wall.current.id)
    wall.current = { id, key: wall.current.id === "" ? wall.current.key : wall.current.key + 1 };
  return wall.current.key;
}

/** The task is left out of the address where it is the usual one. */
function clean<T extends { task?: string | undefined }>(search: T): T {
  return search.task === "generate" ? { ...search, task: undefined } : search;
}

/** Bring the wall into view when it is mostly outside, as on a phone. */
function reveal(wall: HTMLElement | null): void {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  requestAnimationFrame(() => {
    const top = wall?.getBoundingClientRect().top ?? 0;
    if (top > window.innerHeight * 0.6 || top < 0)
      wall?.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
  });
}
