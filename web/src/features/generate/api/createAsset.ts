/** POST /v1/assets: upload an image, or a mask, that a generation starts from. */
import { call, client } from "@/client/client";
import type { Given } from "../draft";

export async function createAsset(file: Blob, kind: "image" | "mask"): Promise<Given> {
  const found = await call(
    client.POST("/v1/assets", {
      body: { file: "", kind }, // for the types; the form below is what is sent
      bodySerializer: () => {
        const form = new FormData();
        form.append("file", file, "upload");
        form.append("kind", kind);
        return form;
      },
    }),
  );
  const { id, url, width, height, note } = found;
  return { id, url, width, height, note };
}
