/** The studio: a shelf of models, a recipe, a wall of pictures, and what was drawn before. */
import { useHotkeys } from "@mantine/hooks";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import type { Job, Model } from "@/client/client";
import { ProblemNotice } from "@/components/ProblemNotice";
import { createGeneration, type Wish } from "@/features/generate/api/createGeneration";
import { RecipePanel } from "@/features/generate/components/RecipePanel";
import { Examples, Wall } from "@/features/generate/components/Wall";
import { type Draft, draftOf, newDraft, wishOf } from "@/features/generate/draft";
import { labelsText } from "@/features/generate/labels";
import { remember, useGeneration } from "@/features/generate/useGeneration";
import { HISTORY_KEY } from "@/features/history/api/listGenerations";
import { Recent } from "@/features/history/components/Recent";
import { listModels, MODELS_KEY } from "@/features/models/api/listModels";
import { ModelShelf } from "@/features/models/components/ModelShelf";
import { NoModels } from "@/features/models/components/NoModels";
import { drawSeed, forGeneration } from "@/lib/seed";
import { setAddress, useAddress } from "@/lib/urlState";
import styles from "./StudioPage.module.css";

export function StudioPage() {
  const { t } = useTranslation();
  const models = useQuery({ queryKey: MODELS_KEY, queryFn: listModels });
  return (
    <main className={styles.page} id="studio" tabIndex={-1}>
      {models.isPending && (
        <div aria-label={t("app.loading")} className={styles.loading} role="status">
          <span />
          <span />
          <span />
        </div>
      )}
      {models.isError && <ProblemNotice error={models.error} onRetry={() => models.refetch()} />}
      {models.isSuccess &&
        (models.data.length > 0 ? (
          <Studio models={models.data} />
        ) : (
          <NoModels onRetry={() => models.refetch()} />
        ))}
    </main>
  );
}

function Studio({ models }: { models: Model[] }) {
  const { t } = useTranslation();
  const client = useQueryClient();
  const wanted = useAddress("model");
  const shown = useAddress("generation");
  const model = models.find(({ ref }) => ref === wanted) ?? models[0];
  const [drafts, setDrafts] = useState<Record<string, Draft>>({});
  const wall = useRef<HTMLDivElement>(null);

  const refresh = useCallback(() => void client.invalidateQueries({ queryKey: HISTORY_KEY }), [client]);
  const generation = useGeneration(shown, refresh);
  const create = useMutation({
    mutationFn: createGeneration,
    onSuccess: (job) => {
      remember(client, job);
      setAddress({ model: job.request.model, generation: job.id });
      refresh();
      reveal(wall.current);
    },
  });

  const draft = model && (drafts[model.ref] ?? firstDraft(model));
  const setDraft = (of: Model, next: Draft) => setDrafts((old) => ({ ...old, [of.ref]: next }));
  const ask = (wish: Wish) => !create.isPending && create.mutate(wish);
  const generate = () => {
    if (!model || !draft) return;
    const ready = { ...draft, ...forGeneration(draft) };
    setDraft(model, ready);
    ask(wishOf(model, ready));
  };
  useHotkeys([["mod+Enter", generate]], []);
  if (!model || !draft) return null;

  const modelOf = (job: Job) => models.find(({ ref }) => ref === job.request.model);
  const again = (job: Job, changes: Partial<Wish>) => {
    const { model: ref, labels, n, seed, controls } = job.request;
    ask({ model: ref, labels, n, seed, controls, ...changes });
  };
  return (
    <>
      <h1 className="visually-hidden">{t("app.tagline")}</h1>
      <ModelShelf
        models={models}
        onSelect={({ ref }) => {
          create.reset();
          setAddress({ model: ref, generation: null });
        }}
        selected={model}
      />
      <div className={styles.studio}>
        <div className={styles.panel}>
          <RecipePanel
            draft={draft}
            error={create.error}
            model={model}
            onChange={(next) => setDraft(model, next)}
            onDismiss={() => create.reset()}
            onGenerate={generate}
            sending={create.isPending}
          />
        </div>
        <div className={styles.wall} ref={wall}>
          {shown === null ? (
            <Examples model={model} />
          ) : generation.data ? (
            <Wall
              key={shown}
              model={modelOf(generation.data.job)}
              onKeepSeed={(seed) => setDraft(model, { ...draft, seed, locked: true })}
              onRetry={(job) => again(job, {})}
              onSameNoise={(job, label, seed) => again(job, { labels: [label], n: 1, seed })}
              onUse={(job) => {
                const source = modelOf(job);
                if (source) setDraft(source, draftOf(source, job.request));
              }}
              onVary={(job) => again(job, { seed: drawSeed() })}
              watched={generation.data}
            />
          ) : generation.isError ? (
            <ProblemNotice
              error={generation.error}
              onDismiss={() => setAddress({ generation: null })}
              onRetry={() => generation.refetch()}
            />
          ) : null}
        </div>
      </div>
      <Recent
        current={shown}
        labelsOf={(job) => labelsText(job.request.labels, modelOf(job)?.classes.length ?? 0, t)}
        onOpen={(job) => {
          setAddress({ model: modelOf(job)?.ref ?? model.ref, generation: job.id });
          reveal(wall.current);
        }}
      />
    </>
  );
}

const firstDrafts = new Map<string, Draft>();

/** A model's first draft, with one seed for as long as the page lives. */
function firstDraft(model: Model): Draft {
  const found = firstDrafts.get(model.ref) ?? newDraft(model);
  firstDrafts.set(model.ref, found);
  return found;
}

/** Bring the wall into view when it is mostly outside, as on a phone. */
function reveal(wall: HTMLElement | null): void {
  requestAnimationFrame(() => {
    const top = wall?.getBoundingClientRect().top ?? 0;
    if (top > window.innerHeight * 0.6 || top < 0)
      wall?.scrollIntoView({ block: "start", behavior: "smooth" });
  });
}
