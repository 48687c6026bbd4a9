"""A process of its own that writes a model's networks as ONNX: it takes seconds of pure Python, and memory.

    python -m kartina.process kartina.serving.export PACKAGE HASH FOLDER

Which networks: those that a step of the model's first task calls with tensors and that answer with one tensor; of a
part that is not called itself, its children. FOLDER gets one file for each, and nets.json that names them; it appears
whole or not at all. With standard input closed the process ends, so that it never outlives whoever wanted its work.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kartina.errors import IntegrityError
from kartina.generators.base import Family
from kartina.models.model import Model, load
from kartina.serving.tuning import example

ROWS = 3  # of the batch that networks are traced with; unlike any other size there is
MAX_BYTES = 1_500_000_000  # of a network's weights: more do not fit into one ONNX file


def nets(model: Model) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """The networks by name, with what a step calls them with. Raises ValueError where a step calls none such."""
    family, calls = model.family, dict[str, list[tuple[Any, ...]]]()
    modules = dict(candidates(family))
    odd: set[str] = set()  # called otherwise than with tensors of always the same shape, or not answering with one

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> None:
            calls.setdefault(name, []).append(args)
            plain = not kwargs and isinstance(answer, Tensor) and None not in shapes(args)
            if not plain or shapes(args) != shapes(calls[name][0]):
                odd.add(name)

        return hook

    hooks = [module.register_forward_hook(watch(name), with_kwargs=True) for name, module in modules.items()]
    with torch.no_grad():
        state = family.start([example(model, seed) for seed in range(ROWS)])
        calls.clear()  # those of `start` are not in the way of a step
        odd.clear()
        family.step(state)
    for hook in hooks:
        hook.remove()
    chosen = [name for name in calls if name not in odd and ("." not in name or name.split(".")[0] not in calls)]
    if not chosen:
        raise ValueError(f"a step of {model.ref} calls no network with tensors alone")
    return {name: (modules[name], tuple(arg.clone() for arg in calls[name][0])) for name in chosen}


def shapes(args: Sequence[Any]) -> list[torch.Size | None]:
    """Of a row of each argument; None for what is no tensor."""
    return [arg.shape[1:] if isinstance(arg, Tensor) else None for arg in args]


def candidates(family: Family) -> Iterator[tuple[str, nn.Module]]:
    for part in family.parts:
        module = getattr(family, part)
        yield part, module
        for name, child in module.named_children():
            yield f"{part}.{name}", child


def export(path: str, hash: str, folder: Path) -> None:
    """Write the networks of the package at `path` into `folder`."""
    model = load(path)
    if model.manifest is None or model.manifest.hash != hash:
        raise IntegrityError(f"Found another model at {path} than {hash[:12]}.")
    made = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    made.mkdir(parents=True)
    try:
        found = []
        for i, (name, (net, args)) in enumerate(nets(model).items()):
            if sum(p.numel() * p.element_size() for p in net.parameters()) > MAX_BYTES:
                raise ValueError(f"{name} is too large for one ONNX file")
            rows = torch.export.Dim("rows", min=1, max=4096)
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    net, args, dynamo=True, dynamic_shapes=tuple({0: rows} for _ in args), verbose=False
                )
            assert program is not None
            program.save(made / f"{i}.onnx")
            inputs = [value.name for value in program.model.graph.inputs]
            if len(inputs) != len(args):
                raise ValueError(f"{name} takes {len(args)} tensors, and its ONNX file {len(inputs)}")
            found.append({"name": name, "file": f"{i}.onnx", "inputs": inputs})
        (made / "nets.json").write_text(json.dumps({"hash": hash, "torch": torch.__version__, "nets": found}))
        with contextlib.suppress(OSError):  # somebody else was faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    os.nice(10)
    export(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
