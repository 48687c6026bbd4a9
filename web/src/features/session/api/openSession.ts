/** POST /v1/session: exchange the start-up token for the session cookie. */
import { call, client } from "@/client/client";

export function openSession(token: string): Promise<unknown> {
  return call(client.POST("/v1/session", { body: { token } }));
}
