/** Everything that is known about a model: its sheet, its numbers, each class, where it came from. */
import { CopyButton, Drawer } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { Model } from "@/client/client";
import { IconCheck, IconCopy } from "@/components/icons";
import { WideTable } from "@/components/WideTable";
import { decimal, interval, whole } from "@/lib/format";
import { metricName } from "@/lib/i18n/i18n";
import { ordered, split, told } from "../identity";
import styles from "./ModelDrawer.module.css";

interface Props {
  model: Model | null;
  opened: boolean;
  onClose: () => void;
}

export function ModelDrawer({ model, opened, onClose }: Props) {
  const { t } = useTranslation();
  return (
    <Drawer.Root
      classNames={{ content: styles.content ?? "" }}
      onClose={onClose}
      opened={opened && model !== null}
      position="right"
      size={680}
    >
      <Drawer.Overlay backgroundOpacity={0.35} />
      <Drawer.Content aria-label={model?.name}>
        {model && (
          <Drawer.Body className={styles.body ?? ""}>
            <div className={styles.header}>
              <h2 className={styles.title}>
                {model.name}
                <span className={styles.version}>@{model.version}</span>
              </h2>
              <Drawer.CloseButton aria-label={t("card.close")} size={36} />
            </div>
            <Card model={model} />
          </Drawer.Body>
        )}
      </Drawer.Content>
    </Drawer.Root>
  );
}

function Card({ model }: { model: Model }) {
  return (
    <>
      {model.about && <p className={styles.about}>{model.about}</p>}
      {Object.keys(model.metrics).length > 0 && <Numbers model={model} />}
      {model.per_class.length > 0 && <PerClass model={model} />}
      <Sheet model={model} />
      <Provenance model={model} />
    </>
  );
}

function Numbers({ model }: { model: Model }) {
  const { t, i18n } = useTranslation();
  const { shared, own } = split(model.metrics);
  return (
    <section className={styles.section}>
      <h3>{t("card.numbers")}</h3>
      <WideTable label={t("card.numbers")}>
        <thead>
          <tr>
            <th scope="col">{t("card.metric")}</th>
            <th className={styles.right} scope="col">
              {t("card.value")}
            </th>
            <th className={styles.right} scope="col">
              {t("card.interval")}
            </th>
            <th className={styles.right} scope="col">
              {t("card.floor")}
            </th>
          </tr>
        </thead>
        <tbody>
          {ordered(model.metrics).map(([name, metric]) => (
            <tr key={name}>
              <th scope="row">
                {metricName(name)}
                <span className={styles.identity}>{told(own[name] ?? [])}</span>
              </th>
              <td className={styles.strong}>{decimal(metric.value, i18n.language)}</td>
              <td className={styles.right}>{interval(metric.value, metric.interval, i18n.language)}</td>
              <td className={styles.right}>
                {metric.floor == null ? "" : decimal(metric.floor, i18n.language)}
              </td>
            </tr>
          ))}
        </tbody>
      </WideTable>
      {shared.length > 0 && (
        <p className={styles.note}>{t("card.shared_identity", { identity: told(shared) })}</p>
      )}
    </section>
  );
}

const COLLAPSED = 0.5; // diversity relative to real below which a class is called collapsed

function PerClass({ model }: { model: Model }) {
  const { t, i18n } = useTranslation();
  const number = (value: number | null | undefined) => (value == null ? "" : decimal(value, i18n.language));
  return (
    <section className={styles.section}>
      <h3>{t("card.per_class")}</h3>
      <WideTable label={t("card.per_class")}>
        <thead>
          <tr>
            <th scope="col">{t("card.class")}</th>
            <th className={styles.right} scope="col">
              {metricName("class_agreement")}
            </th>
            <th className={styles.right} scope="col">
              {metricName("coverage")}
            </th>
            <th className={styles.right} scope="col">
              {metricName("diversity")}
            </th>
            <th className={styles.right} scope="col">
              {t("card.train")}
            </th>
          </tr>
        </thead>
        <tbody>
          {model.per_class.map((row) => {
            const example = model.urls.classes[model.classes.indexOf(row.class)];
            return (
              <tr key={row.class}>
                <th scope="row">
                  <span className={styles.class}>
                    {example && <img alt="" height={28} loading="lazy" src={example} width={28} />}
                    {row.class}
                  </span>
                </th>
                <td className={styles.right}>{number(row.agreement)}</td>
                <td className={styles.right}>
                  {row.coverage == null && row.reason === "too few"
                    ? t("card.too_few")
                    : number(row.coverage)}
                </td>
                <td className={styles.right}>
                  {number(row.diversity)}
                  {row.diversity != null && row.diversity < COLLAPSED && (
                    <span className={styles.warn}>{t("card.low_diversity")}</span>
                  )}
                </td>
                <td className={styles.right}>{row.train == null ? "" : whole(row.train, i18n.language)}</td>
              </tr>
            );
          })}
        </tbody>
      </WideTable>
    </section>
  );
}

function Sheet({ model }: { model: Model }) {
  const { t } = useTranslation();
  if (!model.urls.samples) return null;
  return (
    <section className={styles.section}>
      <h3>{t("card.sheet")}</h3>
      <p className={styles.note}>{t("card.sheet_note")}</p>
      <img
        alt={t("models.sheet_of", { name: model.name })}
        className={styles.sheet}
        loading="lazy"
        src={model.urls.samples}
      />
    </section>
  );
}

function Provenance({ model }: { model: Model }) {
  const { t, i18n } = useTranslation();
  const { width, height, channels } = model.image;
  const colour = channels === 1 ? t("card.grey") : t("card.colour");
  const made =
    model.created_at &&
    new Intl.DateTimeFormat(i18n.language, { dateStyle: "long" }).format(Date.parse(model.created_at));
  const facts: [string, string | null | undefined][] = [
    [t("card.licence"), model.licence],
    [t("card.family"), model.family],
    [t("card.preset"), model.preset],
    [t("card.data"), model.data.name],
    [t("card.size"), t("card.size_value", { width, height, channels: colour })],
    [t("card.parameters"), whole(model.parameters, i18n.language)],
    [t("card.created"), made],
  ];
  return (
    <section className={styles.section}>
      <h3>{t("card.provenance")}</h3>
      <dl className={styles.facts}>
        {facts
          .filter(([, value]) => value)
          .map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        <Hash name={t("card.data_hash")} value={model.data.hash} />
        <Hash name={t("card.hash")} value={model.hash} />
      </dl>
    </section>
  );
}

function Hash({ name, value }: { name: string; value: string }) {
  const { t } = useTranslation();
  if (!value) return null;
  return (
    <div>
      <dt>{name}</dt>
      <dd className={styles.hash}>
        <code>{value.slice(0, 16)}…</code>
        <CopyButton value={value}>
          {({ copied, copy }) => (
            <button
              aria-label={copied ? t("card.copied") : t("card.copy", { what: name })}
              className={styles.copy}
              onClick={copy}
              type="button"
            >
              {copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
            </button>
          )}
        </CopyButton>
      </dd>
    </div>
  );
}
