/** The look: a quiet wall, pictures first, one accent (malachite). Colours live in theme.css as variables. */
import {
  createTheme,
  defaultVariantColorsResolver,
  type MantineColorsTuple,
  Modal,
  type VariantColorsResolver,
} from "@mantine/core";

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

const night: MantineColorsTuple = [
  "#e8ece9",
  "#c3cac6",
  "#a2aca6",
  "#6d7872",
  "#3a423e",
  "#2a302d",
  "#1f2422",
  "#191d1b",
  "#111413",
  "#0b0d0c",
];

/** Filled is the accent with the ink that reads on it, in both lights. */
const variantColorResolver: VariantColorsResolver = (input) => {
  const colors = defaultVariantColorsResolver(input);
  if (input.variant !== "filled") return colors;
  return { ...colors, background: "var(--accent)", hover: "var(--accent-hover)", color: "var(--on-accent)" };
};

export const theme = createTheme({
  primaryColor: "malachite",
  primaryShade: { light: 7, dark: 4 },
  variantColorResolver,
  colors: { malachite, dark: night },
  fontFamily: '"Onest Variable", system-ui, sans-serif',
  fontFamilyMonospace: 'ui-monospace, "SF Mono", "Cascadia Code", "DejaVu Sans Mono", monospace',
  headings: { fontFamily: '"Onest Variable", system-ui, sans-serif', fontWeight: "550" },
  defaultRadius: "md",
  radius: { xs: "3px", sm: "5px", md: "8px", lg: "12px", xl: "18px" },
  cursorType: "pointer",
  respectReducedMotion: true,
  components: {
    Modal: Modal.extend({
      defaultProps: { attributes: { header: { role: "presentation" } } }, // it is no banner of the page
      styles: {
        title: { fontSize: 18, fontWeight: 550 },
        content: { background: "var(--paper)" }, // stands out where it is dark, too
        header: { background: "var(--paper)" },
      },
    }),
  },
});
