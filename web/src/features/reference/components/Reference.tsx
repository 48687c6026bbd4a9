/** Every operation of the service's API, by group, found by typing. */
import { Loader, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { useTranslation } from "react-i18next";
import { ProblemNotice } from "@/components/ProblemNotice";
import { groupName } from "@/lib/i18n/reference";
import { DOCUMENT_KEY, getDocument } from "../api/getDocument";
import { type Document, groupsOf, operationsOf } from "../document";
import { OperationRow } from "./OperationRow";
import { Prose } from "./Prose";
import styles from "./Reference.module.css";

interface Props {
  opened: string | undefined; // the id of an operation
  onOpen: (id: string) => void;
}

export function Reference(props: Props) {
  const { t } = useTranslation("reference");
  const asked = useQuery({ queryKey: DOCUMENT_KEY, queryFn: getDocument });
  return (
    <>
      <h1>{t("title")}</h1>
      {asked.isPending && <Loader aria-label={t("loading")} color="var(--accent)" size="sm" type="dots" />}
      {asked.isError && <ProblemNotice error={asked.error} onRetry={() => asked.refetch()} />}
      {asked.data && <Operations {...props} document={asked.data} />}
    </>
  );
}

function Operations({ document, opened, onOpen }: Props & { document: Document }) {
  const { t } = useTranslation("reference");
  const [typed, setTyped] = useState("");
  const [arrived] = useState(opened);
  useEffect(() => {
    if (arrived) window.document.getElementById(arrived)?.scrollIntoView();
  }, [arrived]);
  const groups = groupsOf(operationsOf(document), typed);
  const count = groups.reduce((sum, [, operations]) => sum + operations.length, 0);
  return (
    <>
      <div className={styles.about}>
        <Prose text={document.info.description} />
        <p>
          <a download href="/openapi.json">
            {t("document", { version: document.info.version })}
          </a>
        </p>
      </div>
      <div className={styles.columns}>
        <div className={styles.side}>
          <TextInput
            aria-label={t("find")}
            onChange={(event) => setTyped(event.currentTarget.value)}
            placeholder={t("find")}
            type="search"
            value={typed}
          />
          <p className={styles.count} role="status">
            {t("found", { count })}
          </p>
          <nav aria-label={t("groups")}>
            <ul className={styles.groups}>
              {groups.map(([group, operations]) => (
                <li key={group}>
                  <a href={`#${group}`}>
                    {groupName(group)} <span>{operations.length}</span>
                  </a>
                </li>
              ))}
            </ul>
          </nav>
        </div>
        <div>
          {groups.map(([group, operations]) => (
            <section aria-labelledby={group} className={styles.group} key={group}>
              <h2 id={group}>{groupName(group)}</h2>
              <ul className={styles.operations}>
                {operations.map((operation) => (
                  <OperationRow
                    document={document}
                    key={operation.id}
                    onOpen={() => onOpen(operation.id)}
                    opened={operation.id === opened}
                    operation={operation}
                  />
                ))}
              </ul>
            </section>
          ))}
        </div>
      </div>
    </>
  );
}
