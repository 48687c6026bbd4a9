/** GET /v1/session: who the page is; 401 without the cookie. */
import { call, client } from "@/client/client";

export function getSession() {
  return call(client.GET("/v1/session"));
}

export type Session = Awaited<ReturnType<typeof getSession>>;
