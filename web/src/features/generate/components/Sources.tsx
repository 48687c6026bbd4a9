/** The images that a generation started from, small; those that were deleted since are left out. */
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Job } from "@/client/client";
import { INPUTS, type InputKind } from "@/lib/tasks";
import styles from "./Sources.module.css";

export function Sources({ request }: { request: Job["request"] }) {
  const { t } = useTranslation();
  const given = INPUTS.flatMap((kind) => (request[kind] ?? []).slice(0, 4).map((id) => ({ kind, id })));
  if (given.length === 0) return null;
  return (
    <ul aria-label={t("wall.sources")} className={styles.sources}>
      {given.map(({ kind, id }) => (
        <Source id={id} key={kind + id} kind={kind} />
      ))}
    </ul>
  );
}

function Source({ kind, id }: { kind: InputKind; id: string }) {
  const { t } = useTranslation();
  const [gone, setGone] = useState(false);
  if (gone) return null;
  return (
    <li>
      <img
        alt=""
        height={44}
        onError={() => setGone(true)}
        src={`/v1/assets/${encodeURIComponent(id)}/image.png`}
        width={44}
      />
      <span>{t(`input.${kind}`)}</span>
    </li>
  );
}
