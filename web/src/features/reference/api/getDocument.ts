/** GET /openapi.json: what the service says of itself. */
import { call } from "@/client/client";
import type { Document } from "../document";

export const DOCUMENT_KEY = ["openapi"] as const;

export function getDocument(): Promise<Document> {
  const asked = fetch("/openapi.json").then(async (response) => {
    const body = await response.json();
    return { response, data: body as Document, error: body as unknown };
  });
  return call(asked);
}
