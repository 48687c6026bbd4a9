"""The only training loop: every family, one story.

A step runs the family's due phases in order; each takes fresh real images, asks for its loss in autocast, and updates
its own parameters with its own optimiser. Then the moving average follows.

Bit-exact resume costs nothing here, because nothing random is carried along: the real images are a function of
(seed, position), and the noise and dropout of an update are functions of (seed, step, phase, repeat). A checkpoint
holds the tensors and three counters; on a CPU, N images equal N/2 + kill -9 + resume + N/2 on the same machine, torch
and thread count. (On an accelerator the kernels themselves may differ in the last bits from run to run.)
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import kartina
from kartina import registry
from kartina.config import RunConfig, TrainConfig, override, read
from kartina.data.imageset import ImageSet, open_set
from kartina.data.loader import Loader
from kartina.errors import ConfigError, DivergedError, disk_errors
from kartina.generators.base import (
    Adam,
    At,
    Batch,
    Family,
    Phase,
    Row,
    build,
    from_uint8,
    generate,
    rows_for,
)
from kartina.models import png
from kartina.models.model import Model, as_tensors
from kartina.nets import precision
from kartina.training import checkpoint, diagnosis, muon, transfer
from kartina.training.folder import GRID_COLUMNS, GRID_ROWS
from kartina.training.run import Run, fill, label_share

LOG_EVERY = 2000  # images between lines of stats.jsonl
WARM_UP = 20.0  # seconds of timed steps that turn a time budget into an image count
WATCHED = 100  # classes that the diagnosis looks at
GRID_SHARE = 0.05  # of a time budget that sample grids may take
VALIDATED = 256  # val images that a family's `validate` looks at


@dataclass(frozen=True)
class Progress:
    """What a watcher is told, a few times a second."""

    images: int
    total: int
    rate: float  # images per second, recent
    seconds: float  # active so far
    stats: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Grid:
    """What the networks make now, and how to show it."""

    images: NDArray[np.uint8]  # N,C,H,W
    labels: NDArray[np.int64]  # N
    picture: NDArray[np.uint8]  # n,C,H,W: the cells, row by row
    columns: int


def plan(
    preset: str,
    data: str,
    *,
    images: int | None = None,
    budget: float | None = None,
    settings: list[str] | tuple[str, ...] = (),
    device: str = "auto",
    start: transfer.Source | None = None,
    teacher: transfer.Source | None = None,
) -> RunConfig:
    """The complete config of a new run: the preset, with `key=value` settings over it, fitted to the data.

    Exactly one of `images` and `budget` (active seconds) is given; a budget is turned into images by timing this
    machine, which takes some seconds. `start` gives the first weights, as far as they fit, `teacher` the model to
    learn from (make the run's folder with `transfer.create`). Raises NotFoundError (preset, data), ConfigError
    (settings, sizes, a start or a teacher that does not fit).
    """
    if (images is None) == (budget is None):
        raise ConfigError("Found no single budget; expected either --budget 10m or --images 200k.")
    family_name, base = registry.preset(preset)
    family = registry.family(family_name)
    values, train_values = dict(base.config), dict(base.train)
    override(settings, ("family", family.Config, values), ("training", TrainConfig, train_values))
    train = read(TrainConfig, train_values, "training settings")
    config = read(family.Config, values, f"settings of {family_name}")
    found = open_set(data)
    if (found.spec.height, found.spec.width) != (base.size, base.size):
        raise ConfigError(
            f"Found {data!r} at {found.spec.height}x{found.spec.width}; preset {preset!r} is made for "
            f"{base.size}x{base.size}. Import the data again with --size {base.size} under another name, or choose a "
            f"preset of that size (kartina presets)."
        )
    if "train" not in found.bounds:
        found.part("train")  # says what is missing
    where = pick_device(device)
    # Stored, because they decide the last bits.
    decided = {"threads": train.threads or cores(), "precision": precision.pick(train.precision, where)}
    train = train.model_copy(update=decided)
    run = RunConfig(
        kartina=kartina.__version__,
        preset=preset,
        family=family_name,
        config=config.model_dump(mode="json"),
        train=train,
        spec=found.spec,
        data=data,
        data_hash=found.hash,
        images=images or 1,
        budget=budget,
        device=where,
    )
    networks = transfer.on_meta(run)  # the sizes fit, or a ConfigError says why
    taken = transfer.take(start, networks, teacher)
    transfer.check_frozen(networks, taken.keys if taken else ())
    if budget is not None:
        with memory_errors():
            run = run.model_copy(update=fit(run, found, budget))
    return run.model_copy(update={"start": taken.start}) if taken else run


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(device: str) -> str:
    """'auto' -> cuda, mps or cpu, whichever is there first. Raises ConfigError for one that is not there."""
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if device == "auto":
        return there[0]
    if device not in there:
        raise ConfigError(f"Found --device {device}; this machine has: {', '.join(there)}. Use one of those, or auto.")
    return device


def fit(config: RunConfig, data: ImageSet, budget: float) -> dict[str, Any]:
    """Time the training on throw-away networks; say how many images, and sample grids, fit into `budget` seconds."""
    start = time.perf_counter()
    warm = config.model_copy(update={"images": 10**9})
    trainer = Trainer(warm, data)
    trainer.family.rehearse()
    limit = min(WARM_UP, budget / 20)
    for _ in range(2):  # allocation and autotuning are not the steady state
        trainer.step()
    trainer.synchronise()
    begun, done = time.perf_counter(), 0
    cycle = math.lcm(*(p.every for p in trainer.phases))  # whole cycles, so that lazy phases count by their share
    while done == 0 or (time.perf_counter() - begun < limit and done < 10_000):
        for _ in range(min(cycle, 64)):
            trainer.step()
            done += 1
        trainer.synchronise()
    per_image = (time.perf_counter() - begun) / (done * trainer.images_per_step)
    grids, grid_time = config.train.grids, 0.0
    if grids:
        begun = time.perf_counter()
        trainer.sample_grid()
        trainer.validate()
        grid_time = time.perf_counter() - begun
        grids = max(1, min(grids, int(budget * GRID_SHARE / grid_time)))
    left = budget - (time.perf_counter() - start) - grids * grid_time
    images = max(trainer.images_per_step, int(0.98 * left / per_image))
    return {"images": images, "train": config.train.model_copy(update={"grids": grids})}


class Trainer:
    """The state of one training, in memory: networks, moving average, optimisers, counters."""

    def __init__(self, config: RunConfig, data: ImageSet, start: Mapping[str, Tensor] | None = None):
        train = config.train
        if config.device == "cpu":
            torch.set_num_threads(train.threads or cores())
        self.config, self.train = config, train
        self.device = torch.device(config.device)
        self.low = precision.pick(train.precision, config.device) == "bf16"
        self.data = data.part("train")
        self.shown = data.part("val") if "val" in data.bounds else self.data  # what sample grids are made from
        flip = train.flip == "on" or (train.flip == "auto" and config.spec.flip_safe)
        self.loader = Loader(self.data, train.batch, train.seed, flip, train.labels, train.temper)
        self.class_weights = torch.from_numpy(self.loader.weights).float().to(self.device)

        # Networks and their moving average.
        family = registry.family(config.family)
        self.family: Family = build(family, config.config, config.spec, train.seed)
        if start is not None:  # before what is made from the data
            transfer.put(self.family, start)
        self.family.setup(self.data, torch.Generator().manual_seed(train.seed))
        self.format = torch.channels_last if family.channels_last else torch.contiguous_format
        self.family.to(device=self.device, memory_format=self.format).train()  # type: ignore[call-overload]
        self.ema = build(family, config.config, config.spec, train.seed).sampler()
        self.ema.to(device=self.device, memory_format=self.format)  # type: ignore[call-overload]
        self.ema.load_state_dict(part_state(self.family))
        live = dict(self.family.named_parameters())
        self.averaged = [(live[k], p) for k, p in self.ema.named_parameters()]

        # Optimisers: phases with the same `opt` share one; a lazy phase corrects its lr and betas (Karras 2020).
        self.phases: list[Phase] = self.family.phases()
        self.names = {id(p): k for k, p in self.family.named_parameters()}
        self.optimisers: dict[str, torch.optim.Adam] = {}
        self.muons: dict[str, muon.Muon] = {}  # beside Adam, for the matrices
        self.peak: dict[str, float] = {}
        for opt in dict.fromkeys(p.opt for p in self.phases):
            settings: Adam = self.family.optimiser(opt, train)
            params = list({id(p): p for phase in self.phases if phase.opt == opt for p in phase.params}.values())
            mine = [phase for phase in self.phases if phase.opt == opt]
            each = max(1, sum(phase.repeat for phase in mine if phase.every == 1))  # steps, but for lazy phases
            lazy = (phase.every * each for phase in mine if phase.every > 1)
            correct = math.prod(steps / (steps + 1) for steps in lazy)
            b1, b2 = settings.betas
            self.peak[opt] = train.lr * settings.lr * correct
            matrices = [p for p in params if muon.suits(self.names[id(p)], p)] if train.optimizer == "muon" else []
            if matrices:
                self.muons[opt] = muon.Muon(matrices, self.peak[opt], muon.MOMENTUM**correct, settings.weight_decay)
                self.names |= {
                    id(m): self.names[id(p)] for p, m in zip(matrices, self.muons[opt].matrices, strict=True)
                }
                params = [p for p in params if not muon.suits(self.names[id(p)], p)]
            self.optimisers[opt] = torch.optim.Adam(
                params,
                lr=self.peak[opt],
                betas=(b1**correct, b2**correct),
                eps=settings.eps,
                weight_decay=settings.weight_decay,
                fused=config.device in ("cpu", "cuda"),
            )
        self.all_params = list(self.family.parameters())
        self.images_per_step = self.phases[0].repeat * self.size(self.phases[0])

        self.steps = 0
        self.images = 0  # seen by the first phase: what budgets count
        self.position = 0  # of the loader: every phase takes its own images
        self.seconds = 0.0  # active
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    # -- one step ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Every due phase once, then the moving average. Raises DivergedError on NaN or Inf."""
        for index, phase in enumerate(self.phases):
            if self.steps % phase.every:
                continue
            for repeat in range(phase.repeat):
                self.update(index, phase, repeat)
        self.images += self.images_per_step
        self.steps += 1
        self.average()

    def update(self, index: int, phase: Phase, repeat: int) -> None:
        # Everything random in this update is a function of (seed, step, phase, repeat).
        seed = derive(self.train.seed, self.steps, index, repeat)
        torch.manual_seed(seed)  # dropout
        rng = torch.Generator(self.device).manual_seed(seed + 1)
        at = At(self.steps, self.images, self.config.images, rng, self.class_weights)
        batch = self.take(self.size(phase))

        # Only this phase's parameters get gradients.
        for p in self.all_params:
            p.requires_grad_(False)
        for p in phase.params:
            p.requires_grad_(True)

        optimisers = [o[phase.opt] for o in (self.optimisers, self.muons) if phase.opt in o]
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low):
            loss = self.family.loss(phase.name, batch, at)
        self.check(loss.total, phase.name)
        loss.total.backward()  # type: ignore[no-untyped-call]
        if self.train.clip:
            torch.nn.utils.clip_grad_norm_(phase.params, self.train.clip)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.peak[phase.opt] * schedule(self.train, self.images, self.config.images)
            optimiser.step()
        self.family.after(phase.name, loss.stats, at)
        for key, value in loss.stats.items():
            self.sums[key] = self.sums.get(key, torch.zeros((), device=self.device)) + value.detach().float()
            self.counts[key] = self.counts.get(key, 0) + 1

    def synchronise(self) -> None:
        """Wait until the device has done what it was told: before reading a clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def size(self, phase: Phase) -> int:
        return max(1, round(self.train.batch * phase.batch))

    def take(self, n: int) -> Batch:
        """The next n real images, on the device, in [-1, 1]."""
        taken = self.loader.take(self.position, n)
        self.position += n
        return self.batch(taken.images, taken.labels, taken.ids, taken.sources)

    def batch(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        ids: NDArray[np.int64],
        sources: NDArray[np.uint8] | None,
    ) -> Batch:
        def tensor(array: NDArray[np.uint8]) -> Tensor:
            return from_uint8(torch.from_numpy(array).to(self.device)).contiguous(memory_format=self.format)

        on_device = torch.from_numpy(labels).to(self.device), torch.from_numpy(ids).to(self.device)
        return Batch(tensor(images), *on_device, None if sources is None else tensor(sources))

    def check(self, loss: Tensor, phase: str) -> None:
        """NaN/Inf guard; on an accelerator only now and then, because looking makes it wait."""
        if (self.device.type == "cpu" or self.steps % 16 == 0) and not bool(torch.isfinite(loss.detach())):
            raise DivergedError(
                f"Found a loss of {loss.item()} in phase {phase!r} at step {self.steps} ({self.images:,} images); "
                f"expected a finite number. The last checkpoint is kept. {self.remedy()}"
            )

    def remedy(self) -> str:
        return f"Train anew with a lower learning rate (--set lr={self.train.lr / 2:g})" + (
            " or in full precision (--set precision=fp32)." if self.low else "."
        )

    @torch.no_grad()
    def average(self) -> None:
        """EMA of what sampling needs; the half-life is at most `ema_ramp` of what was seen. Buffers are copied."""
        half = min(self.train.ema, self.train.ema_ramp * self.images) if self.train.ema_ramp else self.train.ema
        keep = 0.5 ** (self.images_per_step / half) if half else 0.0
        live, mean = [a for a, _ in self.averaged], [b for _, b in self.averaged]
        torch._foreach_lerp_(mean, live, 1 - keep)  # type: ignore[arg-type]
        buffers = dict(self.family.named_buffers())
        for name, buffer in self.ema.named_buffers():
            buffer.copy_(buffers[name])

    # -- looking -------------------------------------------------------------------------------------------------

    def flush(self) -> dict[str, float]:
        """Mean of each statistic since the last flush."""
        out = {k: float(v) / self.counts[k] for k, v in self.sums.items()}
        self.sums, self.counts = {}, {}
        return out

    def settled(self) -> Family:
        """A copy of the moving average, settled: what would be published now."""
        family = copy.deepcopy(self.ema)
        family.settle(self.data, torch.Generator().manual_seed(self.train.seed), label_share(self.train, self.data))
        return family.eval()

    def sample_grid(self) -> Grid:
        """Fixed-seed samples, GRID_COLUMNS of each class (of the first WATCHED).

        A family that only works on images gets GRID_ROWS of the val split (else train), spread evenly over it.
        """
        family = self.settled()
        if "generate" not in family.capabilities():
            return self.worked_on(family)
        rows: list[Row] = []
        shown = min(family.classes, WATCHED)
        for k in range(shown):
            rows += rows_for(family, [k], GRID_COLUMNS, seed=1000 * k)
        images = generate(family, rows).images.numpy()
        labels = np.repeat(np.arange(shown), GRID_COLUMNS)
        return Grid(images, labels, images[labels < GRID_ROWS], GRID_COLUMNS)

    def worked_on(self, family: Family) -> Grid:
        """Its first task on images of the data; in the picture a row for each: input, output, truth."""
        data, task = self.shown, next(iter(family.capabilities()))
        index = np.linspace(0, len(data) - 1, min(len(data), GRID_ROWS)).astype(np.int64)
        truth = data.images[index]
        sources = data.sources if family.takes_pairs(family.config) else None
        given = Model(family, self.config.preset).inputs(task, {"image": truth if sources is None else sources[index]})
        labels = np.zeros(len(index), np.int64) if data.labels is None else data.labels[index]
        rows = rows_for(family, labels.tolist(), len(index), 0, task=task, inputs=as_tensors(given))
        images = generate(family, rows).images.numpy()
        seen = np.stack([one.pixels for one in given["image"]])
        cells = np.stack(png.alike(seen, images, truth), axis=1)  # n,3,C,H,W
        return Grid(images, labels, cells.reshape(-1, *cells.shape[2:]), columns=3)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """What the family's `validate` says of VALIDATED images spread evenly over the val split (else train)."""
        data = self.shown
        index = np.linspace(0, len(data) - 1, min(len(data), VALIDATED)).astype(np.int64)
        labels = np.zeros(len(index), np.int64) if data.labels is None else np.asarray(data.labels[index], np.int64)
        batch = self.batch(data.images[index], labels, index, None if data.sources is None else data.sources[index])
        rng = torch.Generator(self.device).manual_seed(self.train.seed)
        at = At(self.steps, self.images, self.config.images, rng, self.class_weights)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low):
            stats = self.ema.validate(batch, at, self.family)
        return {f"val/{key}": float(value) for key, value in stats.items()}

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def save(self, root: Path) -> Path:
        optim: dict[str, Tensor] = {}
        for name, optimiser in (*self.optimisers.items(), *self.muons.items()):
            optim |= checkpoint.pack_optimiser(optimiser, self.names, name)
        tensors = {"model": self.family.state_dict(), "ema": self.ema.state_dict(), "optim": optim}
        broken = [k for group in tensors.values() for k, v in group.items() if not bool(torch.isfinite(v).all())]
        if broken:
            raise DivergedError(
                f"Found numbers that are not finite in {broken[0]} at step {self.steps} ({self.images:,} images); they "
                f"were not saved, and the last checkpoint is kept. {self.remedy()}"
            )
        state = {
            "images": self.images,
            "steps": self.steps,
            "position": self.position,
            "seconds": round(self.seconds, 3),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        return checkpoint.write(root, tensors, state)

    def load(self, path: Path) -> list[str]:
        """Go on from a checkpoint; says what differs from where it was written and so may change the last bits."""
        found = checkpoint.read(path)
        fill(self.family, found.tensors["model"], path.parent.parent.name)
        fill(self.ema, found.tensors["ema"], path.parent.parent.name)
        for name, optimiser in (*self.optimisers.items(), *self.muons.items()):
            checkpoint.unpack_optimiser(optimiser, self.names, name, found.tensors["optim"])
        self.images, self.steps = found.state["images"], found.state["steps"]
        self.position, self.seconds = found.state["position"], found.state["seconds"]
        here = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        return [f"{k} was {found.state[k]} and is {v}" for k, v in here.items() if found.state.get(k) != v]


def train(
    run: Run,
    watch: Watch | None = None,
    stop: Callable[[], bool] | None = None,
    gate: Callable[[], None] | None = None,
) -> str:
    """Train `run` from its newest checkpoint to its last image; returns 'finished' or 'paused' (stop() was true).

    `gate` is called before every step and may wait, to leave the device to others; that time is not active time.
    Raises ConflictError when another process trains it, DivergedError on NaN or Inf, StorageError on a full disk; in
    each case the last checkpoint stays.
    """
    with run.lock():
        try:
            with disk_errors("train the run"), memory_errors():
                return _train(run, watch or (lambda _: None), stop or (lambda: False), gate or (lambda: None))
        except Exception as error:
            with disk_errors("record the failure"):
                run.set_status("failed", error=str(error))
            raise


def _train(run: Run, watch: Watch, stop: Callable[[], bool], gate: Callable[[], None]) -> str:
    root = run.path / "checkpoints"
    root.mkdir(exist_ok=True)
    checkpoint.clean(root)
    pick_device(run.config.device)
    found = checkpoint.newest(root)
    trainer = Trainer(run.config, run.data(), transfer.stored(run) if found is None else None)
    lasting: list[str] = []
    if found is not None:
        differs = trainer.load(found)
        if differs:
            lasting = [f"Resumed where {' and '.join(differs)}: the last bits may differ from an undisturbed run."]
    total, grids = run.config.images, run.config.train.grids
    if trainer.images >= total:
        run.set_status("finished", images=trainer.images, total=total, seconds=trainer.seconds, error=None)
        return "finished"
    log = Log(run, trainer)
    real = diagnosis.real_spread(trainer.data)
    warnings: dict[str, str] = {str(i): text for i, text in enumerate(lasting)}
    run.set_status("running", images=trainer.images, total=total, seconds=trainer.seconds, error=None, pid=os.getpid())

    def grid_number() -> int:
        return int(trainer.images / total * grids + 1e-9)

    def look() -> None:
        """A sample grid, the diagnosis, and the family's own losses on val images."""
        grid = trainer.sample_grid()
        save_grid(grid, run.path / "grids" / f"{trainer.images:012d}.png")
        diverse = diagnosis.diversity(grid.images, grid.labels, real)
        log.write({**{f"diversity/{k}": v for k, v in diverse.items()}, **trainer.validate()})
        losses = {s["images"]: s["val/loss"] for s in run.stats() if "val/loss" in s}
        for kind in diagnosis.KINDS:
            warnings.pop(kind, None)
        for f in diagnosis.findings(diverse, run.config.spec.classes, log.last, trainer.images / total, losses):
            warnings[f.kind] = f.message

    def save() -> None:
        trainer.seconds += time.perf_counter() - clock
        log.flush()
        trainer.save(root)
        run.set_status("running", images=trainer.images, seconds=trainer.seconds, warnings=list(warnings.values()))

    # The loop. `clock` starts an active stretch; `saved` and `told` are when that last happened.
    clock = saved = told = time.perf_counter()
    since, drawn, result = trainer.images, grid_number(), "finished"
    rate = 0.0
    while trainer.images < total:
        before = time.perf_counter()
        gate()
        clock += time.perf_counter() - before
        trainer.step()
        if trainer.images // LOG_EVERY != (trainer.images - trainer.images_per_step) // LOG_EVERY:
            log.flush()
        if grid_number() > drawn:
            drawn = grid_number()
            look()
        now = time.perf_counter()
        if now - told > 0.5 or trainer.images >= total:
            fresh = (trainer.images - since) / (now - told)
            rate = fresh if not rate else 0.8 * rate + 0.2 * fresh
            active = trainer.seconds + now - clock
            watch(Progress(trainer.images, total, rate, active, log.last, tuple(warnings.values())))
            told, since = now, trainer.images
        if run.config.train.checkpoint_every and now - saved > run.config.train.checkpoint_every:
            save()
            clock = saved = time.perf_counter()
        if stop():
            result = "paused"
            break
    save()
    log.close()
    run.set_status(result, images=trainer.images, seconds=trainer.seconds, warnings=list(warnings.values()))
    return result


class Log:
    """stats.jsonl and TensorBoard. On resume, lines from after the checkpoint are dropped: they will come again."""

    def __init__(self, run: Run, trainer: Trainer):
        self.path, self.trainer = run.path / "stats.jsonl", trainer
        self.last: dict[str, float] = {}
        kept = [s for s in run.stats() if s["images"] <= trainer.images] if trainer.images else []
        temp = self.path.with_suffix(".tmp")
        temp.write_text("".join(json.dumps(s) + "\n" for s in kept))
        temp.replace(self.path)
        (run.path / "grids").mkdir(exist_ok=True)
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # the training core runs without it
            return
        self.board = SummaryWriter(run.path / "tensorboard", purge_step=trainer.images)

    def flush(self) -> None:
        stats = self.trainer.flush()
        if stats:
            self.last = stats
            self.write(stats)

    def write(self, stats: Mapping[str, float]) -> None:
        line = {"images": self.trainer.images, "step": self.trainer.steps, **{k: float(v) for k, v in stats.items()}}
        with self.path.open("a") as f:
            f.write(json.dumps(line) + "\n")
        if self.board is not None:
            for key, value in stats.items():
                self.board.add_scalar(key, value, self.trainer.images)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def schedule(train: TrainConfig, images: int, total: int) -> float:
    """The learning rate's factor after `images` of `total`: linear warm-up, then the decay, if any."""
    rise = min(1.0, (images + train.batch) / train.warmup) if train.warmup else 1.0
    if train.decay == "none":
        return rise
    late = min(1.0, max(0.0, (images / total - train.decay_from) / (1 - train.decay_from)))
    fall = 1 - late if train.decay == "linear" else 0.5 * (1 + math.cos(math.pi * late))
    return rise * (train.decay_to + (1 - train.decay_to) * fall)


def derive(*numbers: int) -> int:
    """A 62-bit seed from integers (NumPy's SeedSequence hash)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(2))


def part_state(family: Family) -> dict[str, Tensor]:
    """The state of the children that sampling needs."""
    return {k: v for k, v in family.state_dict().items() if k.split(".")[0] in family.parts}


def save_grid(grid: Grid, path: Path) -> None:
    """Write the picture of a grid as a PNG, its cells two pixels apart."""
    n, c, h, w = grid.picture.shape
    columns = min(n, grid.columns)
    rows = -(-n // columns)
    sheet = np.full((rows * (h + 2) + 2, columns * (w + 2) + 2, c), 255, np.uint8)
    for i, image in enumerate(grid.picture):
        y, x = 2 + i // columns * (h + 2), 2 + i % columns * (w + 2)
        sheet[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    temp = path.with_suffix(".tmp")
    Image.fromarray(sheet[:, :, 0] if c == 1 else sheet).save(temp, format="PNG")
    temp.replace(path)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn running out of memory, on the device or the host, into a ConfigError that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ConfigError(
            f"Found too little memory for this training ({str(error).splitlines()[0] or 'no more to be had'}). Train "
            f"with a smaller batch (--set batch=16), or a smaller model."
        ) from error


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a clean stop; a second one is not caught."""
    import signal

    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for n in before:
        signal.signal(n, ask)
    try:
        yield lambda: asked
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


__all__ = ["Progress", "Trainer", "fit", "interruptible", "pick_device", "plan", "train"]
