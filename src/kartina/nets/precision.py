"""What a device multiplies in: bfloat16 where it has the arithmetic for it, float32 elsewhere.

A CPU without bfloat16 instructions converts every product, which is not a little slower than float32 but ten to thirty
times (docs/LOG.md). So `precision=auto` asks the device, and a run stores the answer: it decides the last bits.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]


def pick(precision: Literal["auto", "bf16", "fp32"], device: str) -> Precision:
    """`auto` as what suits the device ('cpu', 'cuda', 'mps'); the other two as they are."""
    if precision == "auto":
        return "bf16" if has_bf16(device.split(":")[0]) else "fp32"
    return precision


@cache
def has_bf16(kind: str) -> bool:
    """Whether a kind of device computes in bfloat16, rather than imitating it."""
    if kind == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.13
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        found = torch.cpu.get_capabilities()  # such as avx512_bf16, amx_bf16
        return any(bool(there) for name, there in found.items() if name.endswith("bf16"))
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True
