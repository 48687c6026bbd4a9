/** The API reference. The operation that was opened last is in the address. */
import { getRouteApi } from "@tanstack/react-router";
import { Reference } from "@/features/reference/components/Reference";
import styles from "./DocsPage.module.css";

const route = getRouteApi("/docs");

export function DocsPage() {
  const { operation } = route.useSearch();
  const navigate = route.useNavigate();
  return (
    <main className={styles.page} id="main" tabIndex={-1}>
      <Reference
        onOpen={(id) => void navigate({ search: { operation: id }, replace: true, resetScroll: false })}
        opened={operation}
      />
    </main>
  );
}
