// Writes src/client/schema.d.ts from openapi.json; with --check only tells whether it is current.
import { readFileSync, writeFileSync } from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";

const source = new URL("../openapi.json", import.meta.url);
const target = new URL("../src/client/schema.d.ts", import.meta.url);
const header = "// Generated from openapi.json by `npm run client`. Do not edit.\n\n";
const text = header + astToString(await openapiTS(source, { alphabetize: true }));

if (process.argv.includes("--check")) {
  let found = "";
  try {
    found = readFileSync(target, "utf8");
  } catch {
    // Missing counts as stale.
  }
  if (found !== text) {
    console.error(
      "src/client/schema.d.ts is not what openapi.json says. Run `npm run client` and commit the result.",
    );
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
