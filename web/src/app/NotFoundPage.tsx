/** An address that leads nowhere. */
import { Link } from "@tanstack/react-router";
import { useTranslation } from "react-i18next";
import empty from "@/components/Empty.module.css";
import { PixelPicture } from "@/components/PixelPicture";

export function NotFoundPage() {
  const { t } = useTranslation();
  return (
    <main className={empty.empty} id="main" tabIndex={-1}>
      <PixelPicture />
      <h1>{t("app.not_found")}</h1>
      <p>{t("app.not_found_lead")}</p>
      <Link className={empty.link} to="/">
        {t("app.studio")}
      </Link>
    </main>
  );
}
