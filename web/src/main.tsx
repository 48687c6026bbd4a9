import "@fontsource-variable/onest/wght.css";
import "@mantine/core/styles.css";
import "./app/theme.css";
import "./lib/i18n/i18n";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app/App";

const root = document.getElementById("root");
if (root)
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
