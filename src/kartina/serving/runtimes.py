"""Other ways than torch in float32 to evaluate a model's networks.

On a CPU ONNX Runtime and OpenVINO, in float32; and where bfloat16 is allowed and the device computes in it, torch's
autocast and OpenVINO in that. Samplers stay torch in float32; only the calls of whole networks go elsewhere. For
ONNX Runtime and OpenVINO a model's networks are exported to ONNX once (see `export`) and kept in
KARTINA_HOME/cache/engine. Whether a runtime is taken is decided by `tuning`: its images must be torch's (within 1/255;
in bfloat16 nearly), and it must be faster. Whatever goes wrong, torch goes on.

    runtime = prepare(path, hash, ("onnx",), counts=(2,))[label("onnx", 2)]
    with runtime.instead(family):
        state = family.step(state)
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from kartina.generators.base import Family
from kartina.nets.precision import has_bf16
from kartina.process import command_of
from kartina.serving import kept

Switch = Literal["eager", "onnx", "openvino", "auto"]
SWITCHES: tuple[str, ...] = get_args(Switch)
Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}  # by runtime
LOW = "bf16"  # the runtime that is torch's autocast, and the end of the name of every one in bfloat16
EXPORTERS = ("onnx", "onnxscript")  # packages that writing ONNX needs
EXPORT_SECONDS = 600
PART = 4  # rows of a part at least, where a thread gets more than one
PARTS = 4  # of the rows that a thread gets on the mean: one that is held up leaves the rest of them to the others

Net = Callable[..., Tensor]
Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Run = Callable[[Arrays], Array]  # a network: its inputs by name, rows first


class BrokenRuntimeError(RuntimeError):
    """A runtime failed where torch may not."""


@dataclass(frozen=True)
class Runtime:
    """A model's networks in another runtime, by their name in the family."""

    name: str
    nets: dict[str, Net]
    bytes: int  # of their weights, beside torch's
    threads: int = 0  # of an evaluation; 0: as many as torch has

    @property
    def exact(self) -> bool:
        """Whether it computes in float32."""
        return not self.name.endswith(LOW)

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


def installed(switch: str, device: str = "cpu", precision: str = "fp32") -> dict[str, str]:
    """The runtimes that the switch and the precision allow and that are there on the device, with their versions."""
    found = exporting(switch) if device == "cpu" else {}
    if precision == LOW and has_bf16(device.split(":")[0]):
        found |= {f"{name}-{LOW}": number for name, number in found.items() if name == "openvino"}
        found[LOW] = torch.__version__
    return found


def exporting(switch: str) -> dict[str, str]:
    """The runtimes on a CPU that the switch allows and that are installed, with their versions."""
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


def label(name: str, threads: int) -> str:
    """What a runtime on so many threads is called where several are compared."""
    return f"{name}@{threads}"


def prepare(path: str, hash: str, names: Sequence[str], counts: Sequence[int]) -> dict[str, Runtime | str]:
    """The model's networks in each of the runtimes that read ONNX, on each of the counts of threads, by label; where
    that fails, why, by the runtime's name. Takes seconds, the first time many. It has no hold of the model, which may
    leave memory while this waits for its turn."""
    names = [name for name in names if name != LOW]
    if not names:
        return {}
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
            found |= {label(name, threads): open_nets(name, folder, threads) for threads in counts}
        except Exception as error:  # a runtime may raise anything; torch goes on
            found[name] = f"not opened: {type(error).__name__}: {error}"[:500]
    return found


def one_of(prepared: Mapping[str, Runtime | str], name: str, threads: int) -> Runtime | str | None:
    """The runtime on so many threads, or why it is not there; None for torch in float32."""
    return prepared.get(label(name, threads), prepared.get(name))


def export(path: str, hash: str, folder: Path) -> str:
    """Have a package's networks written into `folder` by a process of its own; "", or what went wrong there."""
    command = command_of("kartina.serving.export", path, hash, str(folder))
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
    openers: dict[str, Callable[[Path, int, int], Run]] = {
        "onnx": open_onnx,
        "openvino": open_openvino,
        f"openvino-{LOW}": partial(open_openvino, hint=LOW),
    }
    nets = {
        net["name"]: as_net(net["inputs"], open_file(openers[name], folder / net["file"], threads)) for net in listed
    }
    copies = 1 if threads == 1 else 2  # of the weights: see open_file
    return Runtime(name, nets, copies * sum((folder / net["file"]).stat().st_size for net in listed), threads)


def open_file(opener: Callable[[Path, int, int], Run], file: Path, threads: int) -> Run:
    """A network on so many threads: of few rows they share every operation, of more each thread has rows of its own.

    Threads that share an operation wait at its end for the slowest of them, hundreds of times an evaluation, and long
    where one has to leave its core to something else; rows wait for nobody.
    """
    if threads == 1:
        return opener(file, 1, 1)
    shared, alone = opener(file, threads, 1), opener(file, 1, threads)
    return by_rows(shared, alone, threads)


def by_rows(shared: Run, alone: Run, threads: int) -> Run:
    """`alone` on parts of the rows, on so many threads at once; `shared` where there are fewer rows than threads."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="rows")

    def run(given: Arrays) -> Array:
        rows = len(next(iter(given.values())))
        if rows < threads:
            return shared(given)
        size = -(-rows // (threads * max(1, min(PARTS, rows // (threads * PART)))))
        parts = [{name: x[at : at + size] for name, x in given.items()} for at in range(0, rows, size)]
        return np.concatenate(list(pool.map(alone, parts)))

    return run


def open_onnx(file: Path, threads: int, at_once: int) -> Run:
    """A file in ONNX Runtime, on so many threads; several evaluations may be under way at once, however many."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see Supervisor
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(given: Arrays) -> Array:
        found: Array = session.run(None, given)[0]
        return found

    return run


def open_openvino(file: Path, threads: int, at_once: int, hint: str = "f32") -> Run:
    """A file in OpenVINO: so many evaluations at once, each on so many threads."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads * at_once,
        "NUM_STREAMS": at_once,
        "PERFORMANCE_HINT": "LATENCY" if at_once == 1 else "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": hint,
    }
    # Its first look at an array imports things while it holds a lock that a second thread, which holds the interpreter,
    # waits for: two at once would wait for ever. So this is the first look.
    openvino.Tensor(np.zeros(1, np.float32))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(at_once):
        free.put(compiled.create_infer_request())

    def run(given: Arrays) -> Array:
        request = free.get()
        try:
            found: Array = request.infer(given, share_inputs=True)[compiled.output(0)].copy()  # of memory used again
        finally:
            free.put(request)
        return found

    return run


def as_net(inputs: Sequence[str], run: Run) -> Net:
    """A network's forward: tensors in, a tensor out."""

    def net(*given: Tensor) -> Tensor:
        try:
            arrays = {name: x.contiguous().numpy() for name, x in zip(inputs, given, strict=True)}
            return torch.from_numpy(run(arrays))
        except Exception as error:  # each runtime has errors of its own
            raise BrokenRuntimeError(f"{type(error).__name__}: {error}") from error

    return net


def lowered(family: Family, device: str) -> Runtime:
    """The family's own networks under torch's autocast to bfloat16; what they answer is float32 again."""
    kind = device.split(":")[0]

    def net(module: nn.Module) -> Net:
        forward = type(module).forward

        def run(*given: Any, **named: Any) -> Any:
            if torch.is_autocast_enabled(kind):  # a part of a network that is
                return forward(module, *given, **named)
            try:
                with torch.autocast(kind, torch.bfloat16):
                    return _whole(forward(module, *given, **named))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # something that this device cannot do in bfloat16
                raise BrokenRuntimeError(f"{type(error).__name__}: {error}") from error

        return run

    modules = {part: getattr(family, part) for part in family.parts}
    modules |= {f"{p}.{name}": child for p, part in modules.items() for name, child in part.named_children()}
    return Runtime(LOW, {name: net(module) for name, module in modules.items()}, 0)


def _whole(found: Any) -> Any:
    """A network's answer in float32."""
    if isinstance(found, Tensor):
        return found.float() if found.is_floating_point() else found
    return tuple(map(_whole, found)) if isinstance(found, tuple) else found
