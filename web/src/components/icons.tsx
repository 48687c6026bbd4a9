/** The few icons of the page, drawn on a 20 px grid with one stroke; decorative, so hidden from readers. */
import type { ReactNode } from "react";

interface Props {
  size?: number;
}

function Glyph({ size = 18, children }: Props & { children: ReactNode }) {
  return (
    <svg
      aria-hidden="true"
      fill="none"
      height={size}
      stroke="currentColor"
      strokeLinecap="round"
      strokeLinejoin="round"
      strokeWidth="1.5"
      viewBox="0 0 20 20"
      width={size}
    >
      {children}
    </svg>
  );
}

export const IconSun = (props: Props) => (
  <Glyph {...props}>
    <circle cx="10" cy="10" r="3.4" />
    <path d="M10 2.2v1.6M10 16.2v1.6M2.2 10h1.6M16.2 10h1.6M4.5 4.5l1.1 1.1M14.4 14.4l1.1 1.1M15.5 4.5l-1.1 1.1M5.6 14.4l-1.1 1.1" />
  </Glyph>
);
export const IconMoon = (props: Props) => (
  <Glyph {...props}>
    <path d="M16.6 12.1A7 7 0 0 1 7.9 3.4a7 7 0 1 0 8.7 8.7z" />
  </Glyph>
);
export const IconLock = (props: Props) => (
  <Glyph {...props}>
    <rect height="7.5" rx="1.6" width="11" x="4.5" y="9" />
    <path d="M7 9V6.6a3 3 0 0 1 6 0V9" />
  </Glyph>
);
export const IconUnlock = (props: Props) => (
  <Glyph {...props}>
    <rect height="7.5" rx="1.6" width="11" x="4.5" y="9" />
    <path d="M7 9V6.2a3 3 0 0 1 5.7-1.3" />
  </Glyph>
);
export const IconShuffle = (props: Props) => (
  <Glyph {...props}>
    <path d="M2.8 5.5h2.6c1.2 0 2.2.6 2.9 1.5l3.4 5c.7.9 1.7 1.5 2.9 1.5h2.4M2.8 13.5h2.6c1.2 0 2.2-.6 2.9-1.5M11.7 7c.7-.9 1.7-1.5 2.9-1.5H17M14.9 3.2 17.2 5.5l-2.3 2.3M14.9 11.2l2.3 2.3-2.3 2.3" />
  </Glyph>
);
export const IconDownload = (props: Props) => (
  <Glyph {...props}>
    <path d="M10 3v9.2M6.2 8.6 10 12.4l3.8-3.8M3.6 16.4h12.8" />
  </Glyph>
);
export const IconClose = (props: Props) => (
  <Glyph {...props}>
    <path d="m5 5 10 10M15 5 5 15" />
  </Glyph>
);
export const IconLeft = (props: Props) => (
  <Glyph {...props}>
    <path d="M12.2 4.6 6.8 10l5.4 5.4" />
  </Glyph>
);
export const IconRight = (props: Props) => (
  <Glyph {...props}>
    <path d="M7.8 4.6 13.2 10l-5.4 5.4" />
  </Glyph>
);
export const IconCheck = (props: Props) => (
  <Glyph {...props}>
    <path d="m4.4 10.6 3.6 3.6 7.6-8.2" />
  </Glyph>
);
export const IconCopy = (props: Props) => (
  <Glyph {...props}>
    <rect height="10" rx="1.8" width="10" x="7" y="7" />
    <path d="M13 4.2A1.8 1.8 0 0 0 11.4 3H4.8A1.8 1.8 0 0 0 3 4.8v6.6A1.8 1.8 0 0 0 4.2 13" />
  </Glyph>
);
export const IconVary = (props: Props) => (
  <Glyph {...props}>
    <path d="M16.2 8.2A6.6 6.6 0 0 0 4.4 6.4L3 8M3 3.8V8h4.2M3.8 11.8a6.6 6.6 0 0 0 11.8 1.8L17 12M17 16.2V12h-4.2" />
  </Glyph>
);
export const IconSliders = (props: Props) => (
  <Glyph {...props}>
    <path d="M3 6h7M14.6 6H17M3 14h2.4M10 14h7" />
    <circle cx="12.3" cy="6" r="2.2" />
    <circle cx="7.7" cy="14" r="2.2" />
  </Glyph>
);
export const IconAlert = (props: Props) => (
  <Glyph {...props}>
    <circle cx="10" cy="10" r="7.2" />
    <path d="M10 6.2v4.6M10 13.6v.1" />
  </Glyph>
);
export const IconHeart = ({ filled = false, ...props }: Props & { filled?: boolean }) => (
  <Glyph {...props}>
    <path
      d="M10 16.6 3.9 10.5a3.8 3.8 0 0 1 0-5.4 3.8 3.8 0 0 1 5.4 0l.7.7.7-.7a3.8 3.8 0 0 1 5.4 5.4z"
      fill={filled ? "currentColor" : "none"}
    />
  </Glyph>
);
export const IconTrash = (props: Props) => (
  <Glyph {...props}>
    <path d="M3.6 5.4h12.8M8 5.2V3.6c0-.4.3-.7.7-.7h2.6c.4 0 .7.3.7.7v1.6M5.2 5.4l.7 10.3c0 .8.7 1.4 1.5 1.4h5.2c.8 0 1.5-.6 1.5-1.4l.7-10.3M8.4 8.6v5M11.6 8.6v5" />
  </Glyph>
);
export const IconRestore = (props: Props) => (
  <Glyph {...props}>
    <path d="M3.6 8.4h8.6a4.2 4.2 0 0 1 0 8.4H7.4M7 4.6 3.2 8.4 7 12.2" />
  </Glyph>
);
export const IconPlay = (props: Props) => (
  <Glyph {...props}>
    <path d="M6.2 3.9v12.2l9.8-6.1z" />
  </Glyph>
);
export const IconUpload = (props: Props) => (
  <Glyph {...props}>
    <path d="M10 13V3.8M6.2 7.4 10 3.6l3.8 3.8M3.6 16.4h12.8" />
  </Glyph>
);
export const IconBrush = (props: Props) => (
  <Glyph {...props}>
    <path d="M16.8 3.2 9 11M7.3 11.1c1.5.2 2.4 1.2 2.5 2.7 0 2-1.7 3.2-6.4 3.2 1.2-1.1.9-2 1.1-3.3.2-1.6 1.4-2.7 2.8-2.6z" />
  </Glyph>
);
export const IconPicture = (props: Props) => (
  <Glyph {...props}>
    <rect height="13" rx="1.8" width="14" x="3" y="3.5" />
    <circle cx="7.4" cy="7.9" r="1.3" />
    <path d="m3.4 14 4-3.6 2.8 2.5 3.2-3.3 3.4 3.2" />
  </Glyph>
);
export const IconStudio = (props: Props) => (
  <Glyph {...props}>
    <path d="m10 2.8 1.7 4.4 4.4 1.7-4.4 1.7L10 15l-1.7-4.4-4.4-1.7 4.4-1.7zM15.8 13.6v3.2M14.2 15.2h3.2" />
  </Glyph>
);
export const IconHelp = (props: Props) => (
  <Glyph {...props}>
    <rect height="11" rx="2" width="16" x="2" y="4.5" />
    <path d="M5.4 8h.1M8.4 8h.1M11.5 8h.1M14.5 8h.1M6.6 12h6.8" />
  </Glyph>
);
export const IconFilter = (props: Props) => (
  <Glyph {...props}>
    <path d="M3 5h14M5.8 10h8.4M8.4 15h3.2" />
  </Glyph>
);
