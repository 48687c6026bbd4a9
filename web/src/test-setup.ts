/** What jsdom lacks and Mantine asks for; English texts. */
import { cleanup } from "@testing-library/react";
import i18next from "i18next";
import { afterEach } from "vitest";
import "./lib/i18n/i18n";

window.matchMedia = (query: string) =>
  ({
    matches: false,
    media: query,
    onchange: null,
    addEventListener: () => undefined,
    removeEventListener: () => undefined,
    addListener: () => undefined,
    removeListener: () => undefined,
    dispatchEvent: () => false,
  }) satisfies MediaQueryList;

window.ResizeObserver = class {
  observe(): void {}
  unobserve(): void {}
  disconnect(): void {}
};

void i18next.changeLanguage("en");
afterEach(cleanup);
