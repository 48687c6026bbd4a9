"""Other runtimes than torch for a model's networks, on a CPU: ONNX Runtime and OpenVINO.

Samplers stay torch; only the calls of whole networks go elsewhere, in fp32. A model's networks are exported to ONNX
once (see `export`) and kept in KARTINA_HOME/cache/engine. Whether a runtime is taken is decided by `tuning`: its images
must be within 1/255 of torch's, and it must be faster. Whatever goes wrong, torch goes on.

    runtime = prepare(path, hash, ("onnx",), threads=2)["onnx"]
    with runtime.instead(family):
        state = family.step(state)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kartina.generators.base import Family
from kartina.serving import kept

Switch = Literal["eager", "onnx", "openvino", "auto"]
SWITCHES: tuple[str, ...] = get_args(Switch)
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}  # by runtime
EXPORTERS = ("onnx", "onnxscript")  # packages that writing ONNX needs
EXPORT_SECONDS = 600

Net = Callable[..., Tensor]


class BrokenRuntimeError(RuntimeError):
    """A runtime failed where torch may not."""


@dataclass(frozen=True)
class Runtime:
    """A model's networks in another runtime, by their name in the family."""

    name: str
    nets: dict[str, Net]
    bytes: int  # of their weights, beside torch's

    @contextmanager
    def instead(self, family: Family) -> Iterator[None]:
        """For a while the family's networks answer from this runtime. Raises BrokenRuntimeError where one fails."""
        modules = [family.get_submodule(name) for name in self.nets]
        for module, net in zip(modules, self.nets.values(), strict=True):
            module.forward = net
        try:
            yield
        finally:
            for module in modules:
                del module.forward  # the class's own again


def installed(switch: str) -> dict[str, str]:
    """The runtimes that the switch allows and that are installed, with their versions."""
    wanted = PACKAGES if switch == "auto" else {k: v for k, v in PACKAGES.items() if k == switch}
    found = {}
    try:
        for package in EXPORTERS if wanted else ():
            version(package)
    except PackageNotFoundError:
        return {}
    for name, package in wanted.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def prepare(path: str, hash: str, names: Sequence[str], threads: int) -> dict[str, Runtime | str]:
    """The model's networks in each of the runtimes; where that fails, why. Takes seconds, the first time many."""
    folder = exported(hash)
    try:
        problem = "" if (folder / "nets.json").exists() else export(path, hash, folder)
    except OSError as error:
        problem = str(error)
    if problem:
        return dict.fromkeys(names, f"not exported: {problem}")
    found: dict[str, Runtime | str] = {}
    for name in names:
        try:
            found[name] = open_nets(name, folder, threads)
        except Exception as error:  # a runtime may raise anything; torch goes on
            found[name] = f"not opened: {type(error).__name__}: {error}"[:500]
    return found


def export(path: str, hash: str, folder: Path) -> str:
    """Have a package's networks written into `folder` by a process of its own; "", or what went wrong there."""
    command = [sys.executable, "-m", "kartina.serving.export", path, hash, str(folder)]
    with tempfile.TemporaryFile("w+") as errors:
        # Its standard input stays open as long as this process lives, and waits.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors) as process:
            try:
                process.wait(EXPORT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        if (folder / "nets.json").exists():
            kept.prune()  # it has grown
            return ""
        errors.seek(0)
        lines = errors.read().strip().splitlines()
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return [f"exit {process.returncode}", *lines[-1:], *named][-1][:500]


def exported(hash: str) -> Path:
    """Where a model's networks are as ONNX, as this version of torch writes them."""
    return kept.exported(hash, torch.__version__)


def open_nets(name: str, folder: Path, threads: int) -> Runtime:
    """The networks of an exported folder in the runtime `name`, each evaluation on so many threads."""
    listed = json.loads((folder / "nets.json").read_text())["nets"]
    kept.used(folder)
    opener = {"onnx": open_onnx, "openvino": open_openvino}[name]
    nets = {net["name"]: opener(folder / net["file"], net["inputs"], threads) for net in listed}
    return Runtime(name, nets, sum((folder / net["file"]).stat().st_size for net in listed))


def open_onnx(file: Path, inputs: Sequence[str], threads: int) -> Net:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see Supervisor
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(given: dict[str, Any]) -> Any:
        return session.run(None, given)[0]

    return as_net(inputs, run)


def open_openvino(file: Path, inputs: Sequence[str], threads: int) -> Net:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    request = compiled.create_infer_request()

    def run(given: dict[str, Any]) -> Any:
        return request.infer(given, share_inputs=True)[compiled.output(0)].copy()  # its own memory, used again

    return as_net(inputs, run)


def as_net(inputs: Sequence[str], run: Callable[[dict[str, Any]], Any]) -> Net:
    """A network's forward: tensors in, a tensor out."""

    def net(*given: Tensor) -> Tensor:
        try:
            arrays = {name: x.contiguous().numpy() for name, x in zip(inputs, given, strict=True)}
            return torch.from_numpy(run(arrays))
        except Exception as error:  # each runtime has errors of its own
            raise BrokenRuntimeError(f"{type(error).__name__}: {error}") from error

    return net
