/** A mask that is painted: strokes in the image's own pixels, drawn the same way on the screen and into the file. */

export interface Stroke {
  erase: boolean;
  size: number; // pixels across, of the image
  points: [x: number, y: number][];
}

/** Draw the strokes in white on a transparent canvas. */
export function paint(canvas: HTMLCanvasElement, strokes: readonly Stroke[]): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = context.fillStyle = "#fff";
  context.lineCap = context.lineJoin = "round";
  for (const { erase, size, points } of strokes) {
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.lineWidth = size;
    const [first, ...rest] = points;
    if (!first) continue;
    context.beginPath();
    if (rest.length === 0) {
      context.arc(first[0], first[1], size / 2, 0, 2 * Math.PI);
      context.fill();
    } else {
      context.moveTo(...first);
      for (const point of rest) context.lineTo(...point);
      context.stroke();
    }
  }
}

/** The mask as a PNG: white where it was painted, black elsewhere. */
export function maskFile(width: number, height: number, strokes: readonly Stroke[]): Promise<Blob> {
  const painted = document.createElement("canvas");
  painted.width = width;
  painted.height = height;
  paint(painted, strokes);
  const whole = document.createElement("canvas");
  whole.width = width;
  whole.height = height;
  const context = whole.getContext("2d");
  if (!context) return Promise.reject(new Error("This browser cannot draw on a canvas."));
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.drawImage(painted, 0, 0);
  return new Promise((resolve, reject) =>
    whole.toBlob(
      (blob) => (blob ? resolve(blob) : reject(new Error("The mask could not be written."))),
      "image/png",
    ),
  );
}
