import { MantineProvider } from "@mantine/core";
import { fireEvent, render, screen } from "@testing-library/react";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Filters } from "../filters";
import { FilterBar } from "./FilterBar";

const onChange = vi.fn();
beforeEach(() => onChange.mockReset());

const bar = (filters: Filters) => (
  <MantineProvider env="test">
    <FilterBar filters={filters} models={[]} onChange={onChange} />
  </MantineProvider>
);
const field = () => screen.getByLabelText<HTMLInputElement>("To this day");
const type = (value: string) => fireEvent.change(field(), { target: { value } });

describe("the days", () => {
  it("are typed digit by digit, and asked for when they are whole: one step of the history", () => {
    const { rerender } = render(bar({}));
    for (const year of ["0002", "0020", "0202"]) type(`${year}-05-01`);
    expect(onChange).not.toHaveBeenCalled();
    type("2026-05-01");
    type("2026-05-12");
    expect(onChange.mock.calls).toEqual([
      [{ until: "2026-05-01" }, false],
      [{ until: "2026-05-12" }, true],
    ]);
    rerender(bar({ until: "2026-05-01" })); // the address comes after
    expect(field().value).toBe("2026-05-12");
    rerender(bar({ until: "2026-05-12" }));
    type("");
    expect(onChange).toHaveBeenLastCalledWith({ until: undefined }, true);
  });

  it("stay what the address says when half of one is left behind", () => {
    render(bar({ until: "2026-05-01" }));
    type("0002-05-01");
    expect(field().value).toBe("0002-05-01");
    fireEvent.blur(field());
    expect(field().value).toBe("2026-05-01");
    expect(onChange).not.toHaveBeenCalled();
  });

  it("follow an address that others changed", () => {
    const { rerender } = render(bar({}));
    type("2026-05-01");
    rerender(bar({ until: "2026-05-01" }));
    rerender(bar({ until: "2025-01-01" }));
    expect(field().value).toBe("2025-01-01");
    type("2025-01-02");
    expect(onChange).toHaveBeenLastCalledWith({ until: "2025-01-02" }, false);
  });
});
