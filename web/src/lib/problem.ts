/** RFC 9457 problems as the service sends them, and the error that carries one. */

export interface Problem {
  status: number;
  code: string;
  title: string;
  detail: string;
  errors?: unknown;
  request_id?: string | null | undefined;
}

export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail || problem.title);
    this.name = "ProblemError";
  }
}

/** Any thrown value as a problem: what is not ours is told as it is. */
export function problemOf(error: unknown): Problem {
  if (error instanceof ProblemError) return error.problem;
  return {
    status: 0,
    code: "page",
    title: "page",
    detail: error instanceof Error ? error.message : String(error),
  };
}

export interface Fault {
  where: string;
  message: string;
}

/** The lines of `errors[]`, each a string or an object that names a place and says what is wrong. */
export function faultsOf(problem: Problem): Fault[] {
  if (!Array.isArray(problem.errors)) return [];
  return problem.errors.map((entry): Fault => {
    if (typeof entry === "string") return { where: "", message: entry };
    const { loc, field, pointer, where, msg, message, detail } = (entry ?? {}) as Record<string, unknown>;
    const place = where ?? field ?? pointer ?? loc ?? "";
    return {
      where: Array.isArray(place) ? place.join(".") : String(place),
      message: String(message ?? msg ?? detail ?? JSON.stringify(entry)),
    };
  });
}
