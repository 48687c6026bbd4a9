/** Paint what is to be made anew, with a pointer or with arrow keys and Space. */
import { Button, Modal, SegmentedControl, Slider } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { type KeyboardEvent, type PointerEvent, useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { ProblemNotice } from "@/components/ProblemNotice";
import { maskFile, paint, type Stroke } from "../mask";
import styles from "./MaskEditor.module.css";

interface Props {
  src: string; // of the image under the mask
  opened: boolean;
  onClose: () => void;
  onDone: (mask: Blob) => void;
}

const ROOM = 520; // CSS pixels at most, each way
const LEAST = 160; // CSS pixels of the longer side, also where the window is low: the dialog scrolls

export function MaskEditor({ src, opened, onClose, onDone }: Props) {
  const { t } = useTranslation();
  return (
    <Modal
      closeButtonProps={{ "aria-label": t("lightbox.close") }}
      onClose={onClose}
      opened={opened}
      size="auto"
      title={t("mask.title")}
    >
      <Editor key={src} onClose={onClose} onDone={onDone} src={src} />
    </Modal>
  );
}

function Editor({ src, onClose, onDone }: Omit<Props, "opened">) {
  const { t } = useTranslation();
  const [size, setSize] = useState<{ width: number; height: number } | null>(null);
  const [strokes, setStrokes] = useState<Stroke[]>([]);
  const [erase, setErase] = useState(false);
  const [share, setShare] = useState(18); // the brush, in percent of the shorter side
  const done = useMutation({
    mutationFn: async () => maskFile(size?.width ?? 1, size?.height ?? 1, strokes),
    onSuccess: (mask) => {
      onDone(mask);
      onClose();
    },
  });
  return (
    <div className={styles.editor}>
      <p className={styles.about}>{t("mask.about")}</p>
      <Board
        brush={{ erase, size: size ? (Math.min(size.width, size.height) * share) / 100 : 1 }}
        onSize={setSize}
        onStrokes={setStrokes}
        size={size}
        src={src}
        strokes={strokes}
      />
      <div className={styles.tools}>
        <SegmentedControl
          aria-label={t("mask.tool")}
          data={[
            { value: "paint", label: t("mask.paint") },
            { value: "erase", label: t("mask.erase") },
          ]}
          onChange={(value) => setErase(value === "erase")}
          size="sm"
          value={erase ? "erase" : "paint"}
        />
        <div className={styles.size}>
          <span>{t("mask.size")}</span>
          <Slider
            label={null}
            max={60}
            min={2}
            onChange={setShare}
            thumbLabel={t("mask.size")}
            value={share}
          />
        </div>
        <Button
          disabled={strokes.length === 0}
          onClick={() => setStrokes((all) => all.slice(0, -1))}
          size="sm"
          variant="default"
        >
          {t("mask.undo")}
        </Button>
        <Button disabled={strokes.length === 0} onClick={() => setStrokes([])} size="sm" variant="default">
          {t("mask.clear")}
        </Button>
      </div>
      {done.isError && <ProblemNotice error={done.error} onRetry={() => done.mutate()} />}
      <Button disabled={strokes.length === 0 || !size} loading={done.isPending} onClick={() => done.mutate()}>
        {t("mask.use")}
      </Button>
    </div>
  );
}

interface BoardProps {
  src: string;
  size: { width: number; height: number } | null;
  onSize: (size: { width: number; height: number }) => void;
  strokes: Stroke[];
  onStrokes: (change: (strokes: Stroke[]) => Stroke[]) => void;
  brush: { erase: boolean; size: number };
}

function Board({ src, size, onSize, strokes, onStrokes, brush }: BoardProps) {
  const { t } = useTranslation();
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawing = useRef(false);
  const [cursor, setCursor] = useState<[number, number] | null>(null); // in image pixels; null: no keyboard in use
  const { width, height } = size ?? { width: 1, height: 1 };
  const longer = Math.max(width, height);
  const room = Math.min(ROOM / longer, (window.innerWidth - 72) / width, (window.innerHeight - 340) / height);
  const scale = Math.max(LEAST / longer, room);

  useEffect(() => {
    if (canvas.current) paint(canvas.current, strokes);
  }, [strokes]);

  const at = (event: PointerEvent<HTMLCanvasElement>): [number, number] => {
    const box = event.currentTarget.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * width) / box.width,
      ((event.clientY - box.top) * height) / box.height,
    ];
  };
  const begin = (point: [number, number]) => onStrokes((all) => [...all, { ...brush, points: [point] }]);
  const go = (point: [number, number]) =>
    onStrokes((all) => {
      const last = all.at(-1);
      return last ? [...all.slice(0, -1), { ...last, points: [...last.points, point] }] : all;
    });
  const end = () => {
    drawing.current = false;
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = brush.size / 3;
    const [x, y] = cursor ?? [width / 2, height / 2];
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
    };
    const move = moves[event.key];
    if (move) {
      event.preventDefault();
      const next: [number, number] = [
        Math.min(width, Math.max(0, x + move[0])),
        Math.min(height, Math.max(0, y + move[1])),
      ];
      setCursor(next);
      if (event.shiftKey) {
        begin([x, y]);
        go(next);
      }
    } else if (event.key === " ") {
      event.preventDefault();
      begin([x, y]);
      setCursor([x, y]);
    }
  };
  return (
    <div className={styles.board} style={size ? { width: width * scale, height: height * scale } : {}}>
      <img
        alt=""
        draggable={false}
        onLoad={({ currentTarget: { naturalWidth, naturalHeight } }) =>
          onSize({ width: naturalWidth, height: naturalHeight })
        }
        src={src}
      />
      <canvas
        aria-label={t("mask.canvas")}
        height={height}
        onBlur={() => setCursor(null)}
        onFocus={(event) =>
          event.currentTarget.matches(":focus-visible") && setCursor([width / 2, height / 2])
        }
        onKeyDown={onKeyDown}
        onLostPointerCapture={end}
        onPointerCancel={end}
        onPointerDown={(event) => {
          if (event.button !== 0) return;
          event.currentTarget.setPointerCapture(event.pointerId);
          drawing.current = true;
          begin(at(event));
        }}
        onPointerMove={(event) => drawing.current && go(at(event))}
        onPointerUp={end}
        ref={canvas}
        role="img"
        tabIndex={0}
        width={width}
      />
      {cursor && (
        <span
          className={styles.cursor}
          style={{
            width: brush.size * scale,
            height: brush.size * scale,
            left: cursor[0] * scale,
            top: cursor[1] * scale,
          }}
        />
      )}
    </div>
  );
}
