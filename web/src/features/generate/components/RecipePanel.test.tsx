import { MantineProvider } from "@mantine/core";
import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { useState } from "react";
import { expect, it, vi } from "vitest";
import type { Model } from "@/client/client";
import { newDraft } from "../draft";
import { RecipePanel } from "./RecipePanel";

const model = {
  ref: "plain@1",
  classes: [],
  tasks: { generate: { inputs: [], schema: {}, defaults: {} } },
} as unknown as Model;

function Panel({ onGenerate }: { onGenerate: (n: number) => void }) {
  const [draft, setDraft] = useState(newDraft(model, "generate"));
  return (
    <MantineProvider env="test">
      <RecipePanel
        draft={draft}
        error={null}
        inputs={{ give: () => undefined, of: () => ({ pending: false, problem: null }) }}
        model={model}
        onChange={setDraft}
        onDismiss={() => undefined}
        onGenerate={() => onGenerate(draft.n)}
        onTask={() => undefined}
        sending={false}
        task="generate"
      />
    </MantineProvider>
  );
}

it("draws as many pictures as are shown", async () => {
  const person = userEvent.setup();
  const onGenerate = vi.fn();
  render(<Panel onGenerate={onGenerate} />);
  const count = screen.getByRole("textbox", { name: "Images" });
  for (const typed of ["300", "0", "007"]) {
    await person.clear(count);
    await person.type(count, `${typed}{Enter}`);
    expect(count).toHaveProperty("value", String(onGenerate.mock.lastCall?.[0]));
  }
  expect(onGenerate.mock.calls).toEqual([[256], [256], [7]]);
});
