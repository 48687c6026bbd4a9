/** POST /v1/generations/from-file: run again what made a file, from the file alone. */
import { call, client, type Job } from "@/client/client";

export function runFile(file: Blob): Promise<Job> {
  return call(
    client.POST("/v1/generations/from-file", {
      body: { file: "", n: 1 }, // for the types; the form below is what is sent
      bodySerializer: () => {
        const form = new FormData();
        form.append("file", file, "picture");
        return form;
      },
    }),
  ) as Promise<Job>;
}
