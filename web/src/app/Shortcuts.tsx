/** The keys that do something, in a dialog under "?"; and the keys that lead from page to page. */
import { Modal, Switch } from "@mantine/core";
import { useHotkeys } from "@mantine/hooks";
import { useNavigate } from "@tanstack/react-router";
import { useTranslation } from "react-i18next";
import { anyLayout } from "@/lib/keys";
import { setSingleKeys, useSingleKeys } from "@/lib/singleKeys";
import { readStudio } from "./lastStudio";
import styles from "./Shortcuts.module.css";

interface Props {
  opened: boolean;
  onOpen: () => void;
  onClose: () => void;
}

const KEYS = {
  everywhere: [
    ["keys.help", ["?"]],
    ["keys.studio", ["S"]],
    ["keys.gallery", ["G"]],
    ["keys.undo", ["Ctrl", "Z"]],
  ],
  studio: [["keys.generate", ["Ctrl", "Enter"]]],
  picture: [
    ["keys.move", ["←", "→"]],
    ["keys.close", ["Esc"]],
    ["keys.favourite", ["F"]],
    ["keys.trash", ["Del"]],
  ],
  gallery: [
    ["keys.walk", ["←", "↑", "↓", "→"]],
    ["keys.open", ["Enter"]],
    ["keys.select", ["Space"]],
    ["keys.range", ["Shift", "←", "→"]],
    ["keys.all", ["Ctrl", "A"]],
    ["keys.favourite", ["F"]],
    ["keys.trash", ["Del"]],
    ["keys.none", ["Esc"]],
  ],
} as const;

export function Shortcuts({ opened, onOpen, onClose }: Props) {
  const { t } = useTranslation();
  const navigate = useNavigate();
  const single = useSingleKeys();
  const free = () => document.querySelector("[role=dialog]") === null;
  useHotkeys(
    single
      ? [
          ["shift+?", onOpen],
          ["?", onOpen],
          ...anyLayout("g", () => free() && void navigate({ to: "/gallery" })),
          ...anyLayout("s", () => free() && void navigate({ to: "/", search: readStudio() })),
        ]
      : [],
  );
  return (
    <Modal
      centered
      closeButtonProps={{ "aria-label": t("lightbox.close") }}
      onClose={onClose}
      opened={opened}
      size={620}
      title={t("keys.title")}
    >
      <div className={styles.groups}>
        {Object.entries(KEYS).map(([group, keys]) => (
          <section key={group}>
            <h3>{t(`keys.group_${group as keyof typeof KEYS}`)}</h3>
            <dl>
              {keys.map(([name, combination]) => (
                <div key={name}>
                  <dt>{t(name)}</dt>
                  <dd>
                    {combination.map((key) => (
                      <kbd key={key}>{key}</kbd>
                    ))}
                  </dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
      <Switch
        checked={single}
        description={t("keys.single_about")}
        label={t("keys.single")}
        mt={20}
        onChange={(event) => setSingleKeys(event.currentTarget.checked)}
      />
    </Modal>
  );
}
