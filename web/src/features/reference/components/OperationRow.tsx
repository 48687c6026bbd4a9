/** An operation: a line, and under it, when it is open, all that there is to know, and a form to try it. */
import { useId, useState } from "react";
import { useTranslation } from "react-i18next";
import type { Document, Operation, Response } from "../document";
import { typeName } from "../document";
import { Field, Value } from "./Fields";
import fields from "./Fields.module.css";
import styles from "./OperationRow.module.css";
import { Prose, Words } from "./Prose";
import { TryIt } from "./TryIt";

interface Props {
  operation: Operation;
  document: Document;
  opened: boolean; // when it is first seen
  onOpen: () => void;
}

export function OperationRow({ operation, document, opened, onOpen }: Props) {
  const [open, setOpen] = useState(opened);
  const panel = useId();
  const { id, method, path, description } = operation;
  const [sentence = ""] = description.match(/^.+?\.(?=\s|$)/s) ?? [description];
  return (
    <li className={styles.operation} data-open={open || undefined} id={id}>
      <div className={styles.row}>
        <h3>
          <button
            aria-controls={open ? panel : undefined}
            aria-expanded={open}
            onClick={() => {
              setOpen(!open);
              if (!open) onOpen();
            }}
            type="button"
          >
            <span className={styles.method} data-method={method}>
              {method}
            </span>{" "}
            <span className={styles.path}>{path}</span>
          </button>
        </h3>
        {!open && (
          <p className={styles.lead}>
            <Words text={sentence} />
          </p>
        )}
      </div>
      {open && (
        <div className={styles.panel} id={panel}>
          <About document={document} operation={operation} />
          <TryIt document={document} operation={operation} />
        </div>
      )}
    </li>
  );
}

function About({ operation, document }: Pick<Props, "operation" | "document">) {
  const { t } = useTranslation("reference");
  const { description, parameters, body, responses } = operation;
  const answers = responses.filter(([status]) => status < "400");
  const problems = responses.filter(([status]) => status >= "400");
  const [problem] = Object.values(problems[0]?.[1].content ?? {});
  return (
    <div className={styles.about}>
      <Prose text={description} />
      {parameters.length > 0 && (
        <>
          <h4>{t("parameters")}</h4>
          <ul className={fields.fields}>
            {parameters.map((one) => (
              <Field
                document={document}
                key={`${one.in} ${one.name}`}
                name={one.name}
                place={t(`in_${one.in}`)}
                required={one.required}
                schema={one.schema}
              />
            ))}
          </ul>
        </>
      )}
      {body && (
        <>
          <h4>{t("body")}</h4>
          <p className={styles.type}>
            <code>{body.type}</code> {typeName(body.schema)}
          </p>
          <Value document={document} schema={body.schema} />
        </>
      )}
      <h4>{t("answers")}</h4>
      <ul className={fields.fields}>
        {answers.map(([status, response]) => (
          <Answer document={document} key={status} response={response} status={status} />
        ))}
      </ul>
      {problems.length > 0 && (
        <>
          <h4>{t("problems")}</h4>
          <p className={styles.type}>
            <code>application/problem+json</code>
          </p>
          {problem?.schema && <Value document={document} schema={problem.schema} />}
          <dl className={styles.problems}>
            {problems.map(([status, response]) => (
              <div key={status}>
                <dt>{status}</dt>
                <dd lang="en">{response.description}</dd>
              </div>
            ))}
          </dl>
        </>
      )}
    </div>
  );
}

interface AnswerProps {
  status: string;
  response: Response;
  document: Document;
}

function Answer({ status, response, document }: AnswerProps) {
  return (
    <li>
      <strong>{status}</strong> <span lang="en">{response.description}</span>
      {Object.entries(response.content ?? {}).map(([type, { schema, itemSchema }]) => (
        <div key={type}>
          <p className={styles.type}>
            <code>{type}</code> {schema && typeName(schema)}
          </p>
          <Value document={document} schema={itemSchema ?? schema ?? {}} />
        </div>
      ))}
      {Object.entries(response.headers ?? {}).map(([name, { description }]) => (
        <p className={styles.type} key={name}>
          <code>{name}</code> <span lang="en">{description}</span>
        </p>
      ))}
    </li>
  );
}
