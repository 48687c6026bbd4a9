/** GET /v1/generations: newest first, a page at a time. */
import { call, client } from "@/client/client";

export function listGenerations(cursor: string | null, limit: number) {
  const query = { limit, ...(cursor !== null && { cursor }) };
  return call(client.GET("/v1/generations", { params: { query } }));
}

export const HISTORY_KEY = ["generations"] as const;
