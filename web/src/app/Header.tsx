/** The top line: the name, the pages, the keys, the language, the light. */
import { ActionIcon, SegmentedControl, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { Link, useLocation } from "@tanstack/react-router";
import { useTranslation } from "react-i18next";
import { IconHelp, IconMoon, IconSun } from "@/components/icons";
import { LANGUAGES, type Language, setLanguage } from "@/lib/i18n/i18n";
import styles from "./Header.module.css";
import { readStudio } from "./lastStudio";
import { Shortcuts } from "./Shortcuts";

export function Header() {
  const { t, i18n } = useTranslation();
  const { setColorScheme } = useMantineColorScheme();
  const scheme = useComputedColorScheme("light", { getInitialValueInEffect: false });
  const dark = scheme === "dark";
  useLocation(); // the way back to the studio changes with the address
  const [keys, { open, close }] = useDisclosure(false);
  const link = {
    className: styles.link,
    activeOptions: { exact: true, includeSearch: false },
    activeProps: { "aria-current": "page" as const },
  };
  return (
    <header className={styles.header}>
      <a className={styles.skip} href="#main">
        {t("app.skip")}
      </a>
      <div className={styles.inner}>
        <Link aria-label="Kartina" className={styles.mark} to="/">
          <svg aria-hidden="true" height="22" viewBox="0 0 22 22" width="22">
            <rect fill="none" height="19" stroke="currentColor" strokeWidth="2" width="19" x="1.5" y="1.5" />
            <path d="M5.5 16.5 10 8.5l2.8 4.2 1.7-2.1 2 2.6v3.3z" fill="var(--accent)" />
          </svg>
          <span className={styles.name}>Kartina</span>
        </Link>
        <nav aria-label={t("app.pages")} className={styles.nav}>
          <Link {...link} search={readStudio()} to="/">
            {t("app.studio")}
          </Link>
          <Link {...link} to="/gallery">
            {t("app.gallery")}
          </Link>
          <Link {...link} to="/docs">
            {t("app.api")}
          </Link>
        </nav>
        <div className={styles.tools}>
          <ActionIcon
            aria-label={t("keys.title")}
            className={styles.keys}
            onClick={open}
            size={36}
            variant="subtle"
          >
            <IconHelp />
          </ActionIcon>
          <SegmentedControl
            aria-label={t("app.language")}
            data={LANGUAGES.map((value) => ({ value, label: value.toUpperCase() }))}
            onChange={(value) => setLanguage(value as Language)}
            size="xs"
            value={i18n.language}
          />
          <ActionIcon
            aria-label={dark ? t("app.theme_to_light") : t("app.theme_to_dark")}
            onClick={() => setColorScheme(dark ? "light" : "dark")}
            size={36}
            variant="subtle"
          >
            {dark ? <IconSun /> : <IconMoon />}
          </ActionIcon>
        </div>
      </div>
      <Shortcuts onClose={close} onOpen={open} opened={keys} />
    </header>
  );
}
