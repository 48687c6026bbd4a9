/** The seed: typed, shuffled, and kept or drawn anew for each generation. */
import { ActionIcon, TextInput, Tooltip } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { IconLock, IconShuffle, IconUnlock } from "@/components/icons";
import { drawSeed, type SeedChoice, typed } from "@/lib/seed";
import styles from "./SeedField.module.css";

interface Props {
  choice: SeedChoice;
  onChange: (choice: SeedChoice) => void;
}

export function SeedField({ choice, onChange }: Props) {
  const { t } = useTranslation();
  const { seed, locked } = choice;
  const lock = locked ? t("recipe.unlock") : t("recipe.lock");
  return (
    <div className={styles.row}>
      <TextInput
        className={styles.entry}
        inputMode="numeric"
        label={t("recipe.seed")}
        onChange={(event) => onChange(typed(choice, event.currentTarget.value))}
        spellCheck={false}
        value={String(seed)}
      />
      <Tooltip label={lock}>
        <ActionIcon
          aria-label={t("recipe.lock")}
          aria-pressed={locked}
          onClick={() => onChange({ seed, locked: !locked })}
          size={36}
          variant={locked ? "light" : "default"}
        >
          {locked ? <IconLock /> : <IconUnlock />}
        </ActionIcon>
      </Tooltip>
      <Tooltip label={t("recipe.shuffle")}>
        <ActionIcon
          aria-label={t("recipe.shuffle")}
          onClick={() => onChange({ seed: drawSeed(), locked })}
          size={36}
          variant="default"
        >
          <IconShuffle />
        </ActionIcon>
      </Tooltip>
    </div>
  );
}
