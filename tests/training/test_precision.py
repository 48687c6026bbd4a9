"""Training computes in what the device has, and a run says which that was."""

from __future__ import annotations

from pathlib import Path

import torch

from kartina.nets import precision
from kartina.training.loop import Trainer, plan
from tests import tiny


def cpu_has_bf16() -> bool:
    """As the kernel lists it."""
    flags = Path("/proc/cpuinfo").read_text()
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


def test_auto_is_what_the_cpu_has() -> None:
    assert precision.has_bf16("cpu") is cpu_has_bf16()
    assert precision.pick("auto", "cpu") == ("bf16" if cpu_has_bf16() else "fp32")
    assert precision.pick("bf16", "cpu") == "bf16" and precision.pick("fp32", "cuda:1") == "fp32"


def test_a_run_stores_which_it_was(home: Path) -> None:
    there = precision.pick("auto", "cpu")
    assert plan("vae-32-cpu", "digits", images=100).train.precision == there
    assert plan("vae-32-cpu", "digits", images=100, settings=["precision=bf16"]).train.precision == "bf16"


def test_the_loop_computes_in_it() -> None:
    for chosen, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        config = tiny.run_config("flow", tiny.images(), 100, precision=chosen)
        seen: list[torch.dtype] = []
        made = Trainer(config, tiny.images())
        layer = made.family.generator.inp
        assert isinstance(layer, torch.nn.Module)
        layer.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.dtype))
        made.step()
        assert seen and set(seen) == {dtype}
