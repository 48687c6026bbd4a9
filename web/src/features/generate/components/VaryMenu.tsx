/** More like this: new seeds, the seeds beside these, or the same seeds with another class. */
import { Button, Menu, ScrollArea } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { Job, Model } from "@/client/client";
import { IconVary } from "@/components/icons";
import { drawSeed, SEED_MAX } from "@/lib/seed";
import type { Wish } from "../api/createGeneration";

interface Props {
  job: Job;
  model: Model | undefined;
  onVary: (changes: Partial<Wish>) => void;
}

export function VaryMenu({ job, model, onVary }: Props) {
  const { t } = useTranslation();
  const { seed, n, labels } = job.request;
  const only = labels.length === 1 ? labels[0] : undefined;
  const others = (model?.classes ?? []).filter((name) => name !== only);
  return (
    <Menu position="bottom-end" shadow="md" withInitialFocusPlaceholder={false} withinPortal={false}>
      <Menu.Target>
        <Button leftSection={<IconVary size={16} />} size="sm" variant="default">
          {t("wall.vary")}
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Item onClick={() => onVary({ seed: drawSeed() })}>{t("wall.vary_new")}</Menu.Item>
        <Menu.Item disabled={seed + n > SEED_MAX} onClick={() => onVary({ seed: seed + n })}>
          {t("wall.vary_next")}
        </Menu.Item>
        {others.length > 0 && (
          <>
            <Menu.Label>{t("wall.vary_class")}</Menu.Label>
            <ScrollArea.Autosize mah={240} type="auto">
              {others.map((name) => (
                <Menu.Item key={name} onClick={() => onVary({ labels: [name] })}>
                  {name}
                </Menu.Item>
              ))}
            </ScrollArea.Autosize>
          </>
        )}
      </Menu.Dropdown>
    </Menu>
  );
}
