/** What a value is made of: its fields, and theirs when they are unfolded. */
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { type Document, limitsOf, objectsOf, type Schema, typeName } from "../document";
import styles from "./Fields.module.css";
import { Words } from "./Prose";

interface Props {
  schema: Schema;
  document: Document;
}

/** The objects in a value, each to be unfolded. */
export function Value({ schema, document }: Props) {
  return objectsOf(schema, document).map(([name, inner]) => (
    <Unfold document={document} key={name} name={name} schema={inner} />
  ));
}

function Unfold({ name, schema, document }: Props & { name: string }) {
  const [open, setOpen] = useState(false);
  return (
    <details className={styles.unfold} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <code>{name}</code>
      </summary>
      {open && <Fields document={document} schema={schema} />}
    </details>
  );
}

export function Fields({ schema, document }: Props) {
  return (
    <ul className={styles.fields}>
      {Object.entries(schema.properties ?? {}).map(([name, field]) => (
        <Field
          document={document}
          key={name}
          name={name}
          required={schema.required?.includes(name) ?? false}
          schema={field}
        />
      ))}
    </ul>
  );
}

interface FieldProps extends Props {
  name: string;
  required: boolean;
  place?: string;
}

export function Field({ name, required, place, schema, document }: FieldProps) {
  const { t } = useTranslation("reference");
  const facts = limitsOf(schema);
  if (schema.default !== undefined) facts.unshift(`default ${JSON.stringify(schema.default)}`);
  return (
    <li>
      <code className={styles.name}>{name}</code> <span className={styles.type}>{typeName(schema)}</span>
      {place && <span className={styles.place}>, {place}</span>}
      {required && <span className={styles.required}>, {t("required")}</span>}
      {schema.description && (
        <div className={styles.about}>
          <Words text={schema.description} />
        </div>
      )}
      {facts.length > 0 && (
        <div className={styles.facts} lang="en">
          {facts.join(", ")}
        </div>
      )}
      <Value document={document} schema={schema} />
    </li>
  );
}
