/** An answer as it comes: text is told while it arrives, so that a stream of events is seen; the rest is a file. */

export interface Answer {
  status: number;
  headers: [name: string, value: string][];
  text: string | null; // null: it is a file
  file: Blob | null; // what can be saved, once all of it is here
  complete: boolean;
}

export const MOST = 200_000; // characters of text that are shown

const JSON_TYPE = /[/+]json\b/;
const TEXT_TYPE = /^text\//;

/** Tells of the answer when it begins, with every piece of text, and when it is complete. */
export async function readAnswer(response: Response, told: (answer: Answer) => void): Promise<void> {
  const type = response.headers.get("content-type") ?? "";
  const begun = { status: response.status, headers: [...response.headers], file: null, complete: false };
  if (!JSON_TYPE.test(type) && !TEXT_TYPE.test(type)) {
    told({ ...begun, text: null });
    const file = await response.blob();
    return told({ ...begun, text: null, file: file.size > 0 ? file : null, complete: true });
  }
  let text = "";
  told({ ...begun, text });
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  for (let piece = await reader?.read(); piece && !piece.done; piece = await reader?.read()) {
    text += piece.value;
    told({ ...begun, text: text.slice(0, MOST) });
  }
  const whole = JSON_TYPE.test(type) ? indented(text) : text;
  const file = whole.length > MOST ? new Blob([text], { type }) : null;
  told({ ...begun, text: whole.slice(0, MOST), file, complete: true });
}

function indented(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not what its header says: shown as it is
  }
}
