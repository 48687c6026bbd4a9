/** One request at a time, and what has come of it. */
import { useEffect, useRef, useState } from "react";
import { ProblemError } from "@/lib/problem";
import { type Answer, readAnswer } from "./answer";

interface Trial {
  answer: Answer | null;
  took: number | null; // ms, to the beginning of the answer
  error: unknown;
  busy: boolean;
}

const NOTHING: Trial = { answer: null, took: null, error: null, busy: false };

export function useTry() {
  const [trial, setTrial] = useState(NOTHING);
  const current = useRef<AbortController>(null);
  useEffect(() => () => current.current?.abort(), []);

  const stop = () => current.current?.abort();

  const send = async (url: string, init: RequestInit) => {
    stop();
    const attempt = new AbortController();
    current.current = attempt;
    const tell = (change: Partial<Trial>) =>
      current.current === attempt && setTrial((old) => ({ ...old, ...change }));
    setTrial({ ...NOTHING, busy: true });
    const begun = performance.now();
    try {
      const response = await fetch(url, { ...init, signal: attempt.signal });
      const took = performance.now() - begun;
      await readAnswer(response, (answer) => tell({ answer, took }));
    } catch {
      if (!attempt.signal.aborted)
        tell({ error: new ProblemError({ status: 0, code: "offline", title: "offline", detail: "" }) });
    }
    tell({ busy: false });
  };

  return { ...trial, send, stop };
}
