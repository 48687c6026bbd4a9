/** The typed HTTP client, and the one place where a response becomes data or a ProblemError. */
import createClient from "openapi-fetch";
import { type Problem, ProblemError } from "@/lib/problem";
import type { components, paths } from "./schema";

export type Model = components["schemas"]["Model"];
export type Job = components["schemas"]["Job"];
export type OutputImage = Job["outputs"][number];
export type Metric = Model["metrics"][string];

export const client = createClient<paths>({ baseUrl: "/", credentials: "same-origin" });

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The data of a call. Throws ProblemError for a 4xx, a 5xx, or a server that does not answer. */
export async function call<T>(request: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await request;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ProblemError({ status: 0, code: "offline", title: "offline", detail: "" });
  }
  if (!answer.response.ok) throw new ProblemError(toProblem(answer.error, answer.response));
  return answer.data as T;
}

function toProblem(body: unknown, response: Response): Problem {
  const found = typeof body === "object" && body !== null ? (body as Partial<Problem>) : {};
  return {
    status: response.status,
    code: found.code ?? "http",
    title: found.title ?? response.statusText,
    detail: found.detail ?? "",
    errors: found.errors,
    request_id: found.request_id,
  };
}
