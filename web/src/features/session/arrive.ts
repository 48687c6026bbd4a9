/** First visit: token for cookie, clean address, session. */
import { problemOf } from "@/lib/problem";
import type { Session } from "./api/getSession";
import type { Arrival } from "./token";

export type Visit = { kind: "in"; session: Session } | { kind: "out"; refused: boolean }; // refused: a token was given and not accepted

export interface Door {
  open: (token: string) => Promise<unknown>;
  get: () => Promise<Session>;
  clean: (address: string) => void;
}

const isRefusal = (error: unknown) => [401, 422].includes(problemOf(error).status);

/**
 * Enter with the token, if there is one, else by the cookie. A used token still enters where its cookie is. The
 * address is cleaned first, so that a token never stays in the history. Throws when the service does not answer.
 */
export async function arrive(arrival: Arrival, door: Door): Promise<Visit> {
  let refused = false;
  if (arrival.token !== null) {
    door.clean(arrival.address);
    try {
      await door.open(arrival.token);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      refused = true;
    }
  }
  try {
    return { kind: "in", session: await door.get() };
  } catch (error) {
    if (problemOf(error).status !== 401) throw error;
    return { kind: "out", refused };
  }
}
