/** The look: a quiet wall, pictures first, one accent (malachite). Colours live in theme.css as variables. */
import { createTheme, type MantineColorsTuple } from "@mantine/core";

const malachite: MantineColorsTuple = [
  "#eaf6f1",
  "#d5ebe2",
  "#a9d8c5",
  "#79c5a6",
  "#4fb68c",
  "#2b9a72",
  "#14805c",
  "#0b6b4d",
  "#07553d",
  "#033f2d",
];

export const theme = createTheme({
  primaryColor: "malachite",
  primaryShade: { light: 7, dark: 4 },
  autoContrast: true,
  luminanceThreshold: 0.32,
  colors: { malachite },
  fontFamily: '"Onest Variable", system-ui, sans-serif',
  fontFamilyMonospace: 'ui-monospace, "SF Mono", "Cascadia Code", "DejaVu Sans Mono", monospace',
  headings: { fontFamily: '"Onest Variable", system-ui, sans-serif', fontWeight: "550" },
  defaultRadius: "md",
  radius: { xs: "3px", sm: "5px", md: "8px", lg: "12px", xl: "18px" },
  cursorType: "pointer",
  respectReducedMotion: true,
});
