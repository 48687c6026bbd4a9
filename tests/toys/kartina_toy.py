"""A third party's family, found by its entry point: an untrained ODE that can be slow, fail, or kill its process."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kartina.config import FamilyConfig, ImageSpec
from kartina.generators.base import (
    Batch,
    Capability,
    Controls,
    Family,
    Loss,
    Output,
    Phase,
    Row,
    State,
    noise,
    to_uint8,
)
from kartina.registry import register

TROUBLES = ("none", "start", "step", "exit")
BLOCK = 2**16  # bytes of a piece of scratch, small enough to lie on the heap
KEPT: list[Tensor] = []  # every tenth piece of the last scratch


class ToyConfig(FamilyConfig):
    width: int = 8


class ToyControls(Controls):
    steps: int = Field(4, ge=1, le=1000)
    guidance: float = Field(1.0, ge=0, le=10)
    solver: Literal["euler", "heun"] = "euler"
    delay: float = Field(0.0, ge=0, le=1)  # seconds a step
    # exit: by heun, with an error of the device; with a guidance of 10, in a minute, in which the interpreter is held
    trouble: Literal["none", "start", "step", "exit"] = "none"
    scratch: int = Field(0, ge=0, le=256)  # MiB that a step takes from the heap, and leaves as holes between what stays


@register("toy")
class Toy(Family):
    Config = ToyConfig
    presets: ClassVar = {}

    def __init__(self, config: ToyConfig, spec: ImageSpec):
        super().__init__(config, spec)
        c, w = spec.channels, config.width
        self.generator = nn.ModuleDict(
            {
                "into": nn.Conv2d(c, w, 3, padding=1),
                "label": nn.Linear(self.classes, w),
                "out": nn.Conv2d(w, c, 3, padding=1),
            }
        )

    def phases(self) -> list[Phase]:
        return [Phase("toy", list(self.generator.parameters()))]

    def loss(self, phase: str, batch: Batch, at: object) -> Loss:
        return Loss((self.velocity(batch.images, self.one_hot(batch.labels)) - batch.images).square().mean())

    def velocity(self, x: Tensor, y: Tensor) -> Tensor:
        g = self.generator
        return g["out"](torch.tanh(g["into"](x) + g["label"](y)[:, :, None, None]))

    def capabilities(self) -> dict[str, Capability]:
        return {"generate": Capability(controls=ToyControls)}

    def start(self, rows: Sequence[Row]) -> State:
        if any(row.controls.trouble == "start" for row in rows):
            raise RuntimeError("a toy that does not start")
        x = torch.stack([noise(row.seed, "toy", 0, self.spec.shape) for row in rows]).to(self.device)

        def column(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor([getattr(row.controls, name) for row in rows], dtype=dtype, device=self.device)

        return State(
            {
                "x": x,
                "slope": torch.zeros_like(x),
                "second": torch.zeros(len(rows), dtype=torch.bool),
                "y": self.weights(rows),
                "guidance": column("guidance"),
                "delay": column("delay"),
                "scratch": column("scratch", torch.int64),
                "heun": torch.tensor([row.controls.solver == "heun" for row in rows]),
                "trouble": torch.tensor([TROUBLES.index(r.controls.trouble) for r in rows]),
                "step": torch.zeros(len(rows), dtype=torch.int64),
                "steps": column("steps", torch.int64),
            }
        )

    def step(self, state: State) -> State:
        time.sleep(float(state["delay"].max()))
        if scratch := int(state["scratch"].max()):
            KEPT[:] = [torch.ones(BLOCK, dtype=torch.uint8) for _ in range(scratch * 2**20 // BLOCK)][::10]
        if bool((state["trouble"] == 2).any()):
            raise RuntimeError("a toy that breaks")
        if bool((state["trouble"] == 3).any()):
            if bool(state["heun"][state["trouble"] == 3].any()):
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            if bool((state["guidance"] == 10).any()):
                ctypes.PyDLL(None).sleep(60)
            os._exit(9)
        wide = (slice(None), None, None, None)
        dt = (1 / state["steps"])[wide]
        second = state["second"]
        x = torch.where(second[wide], state["x"] + dt * state["slope"], state["x"])
        free = self.velocity(x, torch.zeros_like(state["y"]))
        v = free + state["guidance"][wide] * (self.velocity(x, state["y"]) - free)
        halfway = state["heun"] & ~second
        moved = state["x"] + dt * torch.where(second[wide], (state["slope"] + v) / 2, v)
        live = ~state.done
        return state.replace(
            x=torch.where((live & ~halfway)[wide], moved, state["x"]),
            slope=torch.where((live & halfway)[wide], v, state["slope"]),
            second=live & halfway,
            step=state["step"] + (live & ~halfway).long(),
        )

    def finish(self, state: State) -> Output:
        return Output(to_uint8(torch.tanh(state["x"])))

    def preview(self, state: State) -> Tensor:
        return to_uint8(torch.tanh(state["x"]))
