/** What made pictures: back into the panel, or copied as a command that makes it again. */
import { Button, Menu } from "@mantine/core";
import { useClipboard } from "@mantine/hooks";
import { useTranslation } from "react-i18next";
import { asCurl, asPython, type Recipe } from "@/lib/recipe";
import type { Field } from "@/lib/schema";
import { IconCheck, IconSliders } from "./icons";

interface Props {
  request: Recipe;
  fields: Field[];
  onUse?: (() => void) | undefined; // undefined: its model is gone
}

export function RecipeMenu({ request, fields, onUse }: Props) {
  const { t } = useTranslation();
  const clipboard = useClipboard({ timeout: 1800 });
  return (
    <Menu position="bottom-end" shadow="md" withInitialFocusPlaceholder={false} withinPortal={false}>
      <Menu.Target>
        <Button
          leftSection={clipboard.copied ? <IconCheck size={16} /> : <IconSliders size={16} />}
          size="sm"
          variant="default"
        >
          <span aria-live="polite">{clipboard.copied ? t("wall.copied") : t("wall.recipe")}</span>
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        {onUse && <Menu.Item onClick={onUse}>{t("wall.use")}</Menu.Item>}
        <Menu.Item onClick={() => clipboard.copy(asCurl(request, fields, window.location.origin))}>
          {t("wall.copy_curl")}
        </Menu.Item>
        <Menu.Item onClick={() => clipboard.copy(asPython(request, fields))}>
          {t("wall.copy_python")}
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
