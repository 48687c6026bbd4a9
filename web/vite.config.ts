import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const here = (path: string) => decodeURIComponent(new URL(path, import.meta.url).pathname);

export default defineConfig({
  plugins: [react()],
  resolve: { alias: { "@": here("./src") } },
  build: {
    outDir: here("../src/kartina/api/static"),
    emptyOutDir: true,
    assetsInlineLimit: 0, // fonts stay files: the page's CSP has no data: for them
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 900,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
  test: {
    environment: "jsdom",
    setupFiles: ["src/test-setup.ts"],
    isolate: false,
    include: ["src/**/*.test.{ts,tsx}"],
  },
});
