/** GET /v1/models: all of them, page after page. */
import { call, client, type Model } from "@/client/client";

export async function listModels(): Promise<Model[]> {
  const models: Model[] = [];
  let cursor: string | null = null;
  do {
    const query: { limit: number; cursor?: string } = { limit: 100, ...(cursor !== null && { cursor }) };
    const page = await call(client.GET("/v1/models", { params: { query } }));
    models.push(...(page.items as Model[])); // the client's wrapper loses that an interval is a pair
    cursor = page.next_cursor ?? null;
  } while (cursor !== null && models.length < 2000);
  return models;
}

export const MODELS_KEY = ["models"] as const;
