/** A form that sends the operation with the session of the page, and the same as a command. */
import { Button, NativeSelect, Textarea, TextInput } from "@mantine/core";
import { useClipboard } from "@mantine/hooks";
import { useId, useState } from "react";
import { useTranslation } from "react-i18next";
import { IconCheck, IconCopy, IconPlay } from "@/components/icons";
import { ProblemNotice } from "@/components/ProblemNotice";
import { choices, type Document, example, isFile, type Operation, resolved, type Schema } from "../document";
import { asCurl, FORM, type Given, JSON_TYPE, keyOf, requestOf } from "../request";
import { useTry } from "../useTry";
import { AnswerView } from "./AnswerView";
import styles from "./TryIt.module.css";

interface Props {
  operation: Operation;
  document: Document;
}

export function TryIt({ operation, document }: Props) {
  const { t } = useTranslation("reference");
  const { body } = operation;
  const [given, setGiven] = useState<Given>(() => ({
    parameters: {},
    body: body?.type === JSON_TYPE ? JSON.stringify(example(body.schema, document), null, 2) : "",
    parts: {},
    file: null,
  }));
  const { answer, took, error, busy, send, stop } = useTry();
  const form = body?.type === FORM ? resolved(body.schema, document) : {};
  return (
    <section aria-label={`${t("try")}: ${operation.method} ${operation.path}`} className={styles.try}>
      <h4>{t("try")}</h4>
      {operation.method !== "GET" && operation.method !== "HEAD" && (
        <p className={styles.note}>{t("for_real")}</p>
      )}
      <form
        className={styles.form}
        onSubmit={(event) => {
          event.preventDefault();
          void send(...requestOf(operation, given));
        }}
      >
        {operation.parameters.map((parameter) => (
          <Entry
            key={keyOf(parameter)}
            name={parameter.name}
            onChange={(value) =>
              setGiven({ ...given, parameters: { ...given.parameters, [keyOf(parameter)]: value } })
            }
            required={parameter.required}
            schema={parameter.schema}
            value={given.parameters[keyOf(parameter)] ?? ""}
          />
        ))}
        {body?.type === JSON_TYPE && (
          <Textarea
            autosize
            classNames={{ input: styles.code ?? "" }}
            label={t("body")}
            maxRows={20}
            minRows={3}
            onChange={(event) => setGiven({ ...given, body: event.currentTarget.value })}
            spellCheck={false}
            value={given.body}
          />
        )}
        {Object.entries(form.properties ?? {}).map(([name, schema]) => {
          const put = (value: string | File) =>
            setGiven({ ...given, parts: { ...given.parts, [name]: value } });
          const required = form.required?.includes(name) ?? false;
          const part = given.parts[name] ?? "";
          return isFile(schema) ? (
            <FileEntry key={name} name={name} onChange={(file) => put(file ?? "")} required={required} />
          ) : (
            <Entry
              key={name}
              name={name}
              onChange={put}
              required={required}
              schema={schema}
              value={typeof part === "string" ? part : ""}
            />
          );
        })}
        {body && body.type !== JSON_TYPE && body.type !== FORM && (
          <FileEntry name={t("body")} onChange={(file) => setGiven({ ...given, file })} required />
        )}
        <div className={styles.actions}>
          <Button leftSection={<IconPlay size={16} />} type="submit">
            {t("send")}
          </Button>
          {busy && (
            <Button onClick={stop} variant="default">
              {t("stop")}
            </Button>
          )}
        </div>
      </form>
      <Command text={asCurl(operation, given, window.location.origin)} />
      {error !== null && <ProblemNotice error={error} />}
      {answer && (
        <AnswerView
          answer={answer}
          busy={busy}
          name={operation.path.slice(operation.path.lastIndexOf("/") + 1)}
          took={took}
          of={`${operation.method} ${operation.path}`}
        />
      )}
    </section>
  );
}

interface EntryProps {
  name: string;
  required: boolean;
  schema: Schema;
  value: string;
  onChange: (value: string) => void;
}

function Entry({ name, required, schema, value, onChange }: EntryProps) {
  const [choice] = choices(schema);
  const options = choice?.type === "boolean" ? [true, false] : choice?.enum;
  const unset = schema.default === undefined ? "" : String(schema.default);
  const shared = { label: name, required, value, size: "sm" } as const;
  if (options)
    return (
      <NativeSelect
        {...shared}
        data={[{ value: "", label: unset && `(${unset})` }, ...options.map(String)]}
        onChange={(event) => onChange(event.currentTarget.value)}
      />
    );
  return (
    <TextInput
      {...shared}
      autoComplete="off"
      onChange={(event) => onChange(event.currentTarget.value)}
      placeholder={unset}
      spellCheck={false}
    />
  );
}

interface FileEntryProps {
  name: string;
  required: boolean;
  onChange: (file: File | null) => void;
}

function FileEntry({ name, required, onChange }: FileEntryProps) {
  const id = useId();
  return (
    <div className={styles.file}>
      <label htmlFor={id}>{name}</label>
      <input
        id={id}
        onChange={(event) => onChange(event.currentTarget.files?.[0] ?? null)}
        required={required}
        type="file"
      />
    </div>
  );
}

function Command({ text }: { text: string }) {
  const { t } = useTranslation("reference");
  const clipboard = useClipboard({ timeout: 1800 });
  return (
    <div className={styles.command}>
      <pre>{text}</pre>
      <Button
        leftSection={clipboard.copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
        onClick={() => clipboard.copy(text)}
        size="xs"
        variant="default"
      >
        <span aria-live="polite">{clipboard.copied ? t("copied") : t("copy_curl")}</span>
      </Button>
    </div>
  );
}
