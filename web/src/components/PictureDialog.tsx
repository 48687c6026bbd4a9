/** One picture large, beside it what is known of it and what can be done. Arrow keys go from picture to picture. */
import { ActionIcon, Modal } from "@mantine/core";
import { useViewportSize, useWindowEvent } from "@mantine/hooks";
import { type ReactNode, useRef } from "react";
import { useTranslation } from "react-i18next";
import { useSingleKeys } from "@/lib/singleKeys";
import { enlarge } from "@/lib/tileSize";
import { IconClose, IconLeft, IconRight } from "./icons";
import { Picture } from "./Picture";
import styles from "./PictureDialog.module.css";

export interface Shown {
  url: string;
  width: number;
  height: number;
  label: string;
  alt: string;
}

interface Props {
  picture: Shown | undefined; // undefined: closed
  title: string; // which of how many
  facts: [name: string, value: ReactNode][];
  onStep: ((by: 1 | -1) => void) | undefined;
  has: { previous: boolean; next: boolean };
  onKey?: (event: KeyboardEvent) => void;
  asking?: boolean; // a question stands before it: keys are the question's
  onClose: () => void;
  children: ReactNode; // what can be done
}

export function PictureDialog(props: Props) {
  const opened = props.picture !== undefined;
  const asking = props.asking ?? false;
  const kept = useRef(props);
  if (opened) kept.current = props;
  const { picture, title, facts, onStep, has, onKey, onClose, children } = kept.current; // seen while it closes, too
  const { t } = useTranslation();
  const screen = useViewportSize();
  const single = useSingleKeys();
  useWindowEvent("keydown", (event) => {
    if (!opened || asking || event.defaultPrevented || isEntry(event.target)) return;
    if (event.key === "ArrowLeft" && has.previous) onStep?.(-1);
    else if (event.key === "ArrowRight" && has.next) onStep?.(1);
    else if (!event.ctrlKey && !event.metaKey && !event.altKey && (single || event.key.length > 1))
      onKey?.(event);
  });
  const narrow = screen.width < 800;
  const room = narrow
    ? Math.min(screen.width - 64, screen.height * 0.5)
    : Math.min(screen.width - 520, screen.height - 200, 640);
  const big = picture
    ? enlarge(picture.width, (room * picture.width) / Math.max(picture.width, picture.height))
    : null;
  return (
    <Modal.Root
      centered={!narrow}
      classNames={{ content: styles.content ?? "" }}
      fullScreen={narrow}
      onClose={onClose}
      opened={opened}
      padding={0}
      radius="lg"
      size="auto"
    >
      <Modal.Overlay backgroundOpacity={0.6} />
      <Modal.Content aria-label={title}>
        <Modal.Body className={styles.body ?? ""}>
          {picture && big && (
            <div className={styles.box}>
              <div
                className={styles.stage}
                style={narrow ? {} : { minWidth: room + 80, minHeight: room + 80 }}
              >
                <Picture
                  alt={picture.alt}
                  crisp={big.crisp}
                  eager
                  height={Math.round((big.width * picture.height) / picture.width)}
                  key={picture.url}
                  src={picture.url}
                  width={big.width}
                />
              </div>
              <div className={styles.side}>
                <div className={styles.bar}>
                  <p className={styles.place}>{title}</p>
                  <ActionIcon
                    aria-label={t("lightbox.previous")}
                    disabled={!has.previous}
                    onClick={() => onStep?.(-1)}
                    size={36}
                    variant="subtle"
                  >
                    <IconLeft />
                  </ActionIcon>
                  <ActionIcon
                    aria-label={t("lightbox.next")}
                    disabled={!has.next}
                    onClick={() => onStep?.(1)}
                    size={36}
                    variant="subtle"
                  >
                    <IconRight />
                  </ActionIcon>
                  <ActionIcon
                    aria-label={t("lightbox.close")}
                    data-autofocus
                    onClick={onClose}
                    size={36}
                    variant="subtle"
                  >
                    <IconClose />
                  </ActionIcon>
                </div>
                <h2 className={styles.label}>{picture.label}</h2>
                <dl className={styles.recipe}>
                  {facts.map(([name, value]) => (
                    <div key={name}>
                      <dt>{name}</dt>
                      <dd>{value}</dd>
                    </div>
                  ))}
                </dl>
                {children}
              </div>
            </div>
          )}
        </Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}

function isEntry(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && target.matches("input, textarea, select, [role=menu] *, [role=menu]")
  );
}
