"""Family: the contract of every generator, from an MLP GAN to diffusion.

A family is an nn.Module that holds its networks as named children, tells the training loop its phases and losses,
and samples step by step. Children named in `parts` are what sampling needs: they are averaged (EMA) and packaged; the
others (a discriminator) only train. A family must write `phases`, `loss`, `start`, `step` and `finish`; the rest has a
default here.

Training     phases -> for each due phase: loss(phase, batch, at) -> the loop's optimiser step -> after(...)
Sampling     start(rows) -> State; step(state) until state.done; finish(state) -> Output

A State is tensors whose leading dimension is the row. All that a row needs to go on is in its own slice, so rows at
different steps, with different labels, seeds and step counts, share a batch, join late and leave early.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, BeforeValidator, Field, create_model
from torch import Tensor, nn

from kartina.config import FamilyConfig, Frozen, ImageSpec, Preset, TrainConfig, label_of
from kartina.errors import ConfigError, NotFoundError


@dataclass(frozen=True)
class Phase:
    """One kind of update. Phases with the same `opt` share one optimiser; every repeat draws a fresh batch."""

    name: str
    params: Sequence[nn.Parameter]
    opt: str = "main"
    every: int = 1  # lazy: due at steps 0, every, 2*every, ...; lr and betas are corrected by k/(k+1)
    repeat: int = 1
    batch: float = 1.0  # share of the batch size


@dataclass(frozen=True)
class Adam:
    """Settings of one optimiser (Kingma & Ba 2015); `lr` scales TrainConfig.lr."""

    lr: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Real images as training sees them."""

    images: Tensor  # float32 N,C,H,W in [-1, 1]
    labels: Tensor  # int64 N (zeros when there are no classes)
    ids: Tensor  # int64 N: position in the train split
    sources: Tensor | None = None  # float32 N,C',H,W in [-1, 1], for pairs

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class At:
    """When an update happens, and its randomness: the generator is a function of (seed, step, phase, repeat)."""

    step: int
    images: int  # seen before this step
    total: int  # to be seen in the run
    rng: torch.Generator  # on the training device
    class_weights: Tensor  # K: the distribution that labels of generated images are drawn from

    @property
    def fraction(self) -> float:
        return self.images / self.total

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, device=self.rng.device)

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.rng, device=self.rng.device)

    def labels(self, n: int) -> Tensor:
        """n labels for generated images (int64)."""
        return torch.multinomial(self.class_weights, n, replacement=True, generator=self.rng)


@dataclass(frozen=True)
class Loss:
    """What to minimise, and scalars to log (detached; averaged over the logging interval)."""

    total: Tensor
    stats: Mapping[str, Tensor] = field(default_factory=dict)


class Controls(Frozen):
    """Base of a task's controls. Each becomes JSON Schema: the API's validation and the UI's form."""


# What a task may start from.
KINDS: Mapping[str, str] = {
    "image": "float32 C,H,W in [-1, 1]",
    "to_image": "another, to go to",
    "mask": "float32 1,H,W in [0, 1]; 1 = to be made anew",
}


Share = Annotated[float, Field(ge=0, le=1)]


def going(classes: tuple[str, ...]) -> dict[str, Any]:
    """Fields of controls that go from one image to another: how far, and to which class (see `Family.other_class`)."""
    fields: dict[str, Any] = {"share": (Share, Field(0.5, description="How far: 0 is the start, 1 the other end"))}
    if classes:
        one_of: Any = Literal
        named = BeforeValidator(lambda given: class_name(classes, given))
        about = "Class to go to; none: the image's own"
        fields["to_class"] = (Annotated[one_of[classes] | None, named], Field(None, description=about))
    return fields


def class_name(classes: tuple[str, ...], given: object) -> object:
    """The class that `label_of` finds for a name or an index; ValueError with its words for an unknown one."""
    if not isinstance(given, str | int):
        return given
    try:
        return classes[label_of(classes, str(given))]
    except NotFoundError as error:
        raise ValueError(str(error)) from None


@cache
def interpolating(controls: type[Controls], classes: tuple[str, ...], of: str) -> type[Controls]:
    """The controls with those of `interpolate`, for a model of these classes; `of` is what a seed stands for."""
    about = f"Seed of the {of} to go to; none: the image's own"
    to_seed: Any = (Annotated[int, Field(ge=0, lt=2**63)] | None, Field(None, description=about))
    return create_model(f"Interpolate{controls.__name__}", __base__=controls, to_seed=to_seed, **going(classes))


@dataclass(frozen=True)
class Capability:
    """What a task takes beside labels, and what can be set."""

    inputs: tuple[str, ...] = ()  # of KINDS
    controls: type[BaseModel] = Controls
    channels: int | None = None  # of the input images; None: as many as the model's own images
    shrink: int = 1  # how many times smaller than the model's own the input images are

    def blank(self, spec: ImageSpec) -> dict[str, Tensor]:
        """Grey inputs of the shapes that the task takes from a model of such images: C,H,W by kind."""
        size = (spec.height // self.shrink, spec.width // self.shrink)
        channels = self.channels or spec.channels
        return {kind: torch.zeros(1 if kind == "mask" else channels, *size) for kind in self.inputs}


@dataclass(frozen=True)
class Row:
    """One image to be made."""

    weights: Tensor  # float32 K: label weights, one-hot for a class, mixed for an interpolation (K=1 without classes)
    seed: int
    controls: Any  # the task's Controls
    task: str = "generate"
    inputs: Mapping[str, Tensor] = field(default_factory=dict)  # by kind: those that the task takes

    @property
    def to_seed(self) -> int:
        """The seed that an interpolation goes to: the row's own where its controls name none."""
        named: int | None = self.controls.to_seed
        return self.seed if named is None else named


class State:
    """Tensors by name, rows first. `step` counts what is done, `steps` what there is to do (both int64 N)."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        sizes = {k: len(v) for k, v in tensors.items()}
        if len(set(sizes.values())) != 1 or not {"step", "steps"} <= sizes.keys():
            raise ValueError(f"State needs `step`, `steps` and equal rows; found {sizes}")
        self.tensors = dict(tensors)

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __len__(self) -> int:
        return len(self.tensors["step"])

    @property
    def done(self) -> Tensor:
        """bool N."""
        return self["step"] >= self["steps"]

    def take(self, rows: Tensor) -> State:
        """The rows picked by an index or a boolean mask, as a new State."""
        return State({k: v[rows] for k, v in self.tensors.items()})

    def put(self, rows: Tensor, part: State) -> State:
        """A new State with `rows` replaced by `part`, in order."""
        out = {}
        for k, v in self.tensors.items():
            new = v.clone()
            new[rows] = part[k]
            out[k] = new
        return State(out)

    def replace(self, **tensors: Tensor) -> State:
        return State({**self.tensors, **tensors})

    @staticmethod
    def cat(states: Sequence[State]) -> State:
        return State({k: torch.cat([s[k] for s in states]) for k in states[0].tensors})


@dataclass(frozen=True)
class Output:
    images: Tensor  # uint8 N,C,H,W, on the CPU
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def noise(seed: int, stream: str, step: int, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 noise as a function of (seed, stream, step, shape) alone, drawn on the CPU."""
    key = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.randn(tuple(shape), generator=rng)


def to_uint8(images: Tensor) -> Tensor:
    """float N,C,H,W in [-1, 1] -> uint8 on the CPU: round and clamp. The product's only way out of floats."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def from_uint8(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]: the inverse of `to_uint8`."""
    return images.to(torch.float32) / 127.5 - 1


class Family(nn.Module):
    """Base of every generator family. Subclass, give it a Config, `@register` it: see `docs/guides/new-family.md`."""

    Config: ClassVar[type[FamilyConfig]]
    presets: ClassVar[Mapping[str, Preset]] = {}
    name: ClassVar[str] = ""  # set by @register
    parts: ClassVar[tuple[str, ...]] = ("generator",)  # children that sampling needs
    channels_last: ClassVar[bool] = True  # memory format of training; U-Nets are faster without
    paired: ClassVar[bool] = False  # learns from pairs: its data must have sources (see `takes_pairs`)
    sampled_by: ClassVar[tuple[str, ...]] = ()  # settings, beside controls, on which its images depend
    stated_by: ClassVar[tuple[str, ...]] = ()  # settings on which it depends what its networks state
    teachers: ClassVar[tuple[str, ...]] = ()  # families whose generator may be its child `teacher` (see `taught`)
    sweep: ClassVar[Mapping[str, Sequence[Any]]] = {}  # `generate`'s controls that `publish --sweep` chooses: values
    config: Any
    spec: ImageSpec

    def __init__(self, config: Any, spec: ImageSpec):
        super().__init__()
        self.config = config
        self.spec = spec
        self.classes = max(1, len(spec.classes))  # K; 1 when there are none

    @classmethod
    def takes_pairs(cls, config: Any) -> bool:
        """Whether a model of this config learns from pairs, and starts from their sources."""
        return cls.paired

    @property
    def taught(self) -> bool:
        """Whether it learns from another model: a frozen child `teacher`, whose weights a run is given at its start."""
        return "teacher" in self._modules

    def translated(self, family: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors, by name, of a start of another family (of `teachers`), as this family's networks have them."""
        return tensors

    # -- training ------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """The updates of one step, in order."""
        raise NotImplementedError

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        """The paper's loss for `phase`, on the training device, in autocast."""
        raise NotImplementedError

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        """Settings of the optimiser called `opt`."""
        return Adam()

    def setup(self, data: Any, rng: torch.Generator) -> None:
        """Once before training, on the train split's ImageSet: e.g. a reference batch, kept as a buffer."""

    def after(self, phase: str, stats: Mapping[str, Tensor], at: At) -> None:
        """After an update of `phase`. State kept between updates belongs in buffers, so that it resumes."""

    def rehearse(self) -> None:
        """On networks that are thrown away, before they are timed: do from now on what costs time later in a run."""

    def validate(self, batch: Batch, at: At, trained: Family) -> Mapping[str, Tensor]:
        """Losses on real images that were not trained on, by the averaged weights, whenever a sample grid is drawn.

        Images and `at`'s randomness are the same each time, so that the numbers can be compared over the run. `trained`
        has what a sampler has not: a teacher.
        """
        return {}

    def settle(self, data: Any, rng: torch.Generator, share: Tensor | None = None) -> None:
        """On the EMA copy, before evaluation and packaging: standing statistics, mean latents. `data` is the training
        split; `share` (K, sums to 1) is how often training drew each label, where that is not as in `data`."""

    # -- likelihood ----------------------------------------------------------------------------------------------

    @property
    def measures_bits(self) -> bool:
        """Whether `bits` is there: a pixel's 256 levels have probabilities."""
        return False

    def bits(self, images: Tensor, y: Tensor, k: int, rng: torch.Generator) -> Tensor:
        """Bits per dimension, float32 N, of images N,C,H,W (of 256 levels in [-1, 1]) given label weights N,K: an upper
        bound by k draws of `rng`, the ELBO's for k = 1."""
        raise NotImplementedError

    # -- sampling ------------------------------------------------------------------------------------------------

    def capabilities(self) -> dict[str, Capability]:
        """Task -> what it takes."""
        return {"generate": Capability()}

    def group(self, row: Row) -> Any:
        """Rows with equal keys may share a batch."""
        return row.task

    def start(self, rows: Sequence[Row]) -> State:
        raise NotImplementedError

    def step(self, state: State) -> State:
        """One network evaluation for every unfinished row; finished rows come back unchanged."""
        raise NotImplementedError

    def finish(self, state: State) -> Output:
        raise NotImplementedError

    def preview(self, state: State) -> Tensor | None:
        """uint8 N,C,H,W: what unfinished rows look like so far; None when there is nothing to see."""
        return None

    # -- help for families ---------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def labelled(self) -> bool:
        """Whether images depend on the class that is asked for."""
        return len(self.spec.classes) > 1 and bool(getattr(self.config, "conditional", True))

    def weights(self, rows: Sequence[Row]) -> Tensor:
        """Label weights of the rows, float32 N,K, on the model's device."""
        return torch.stack([row.weights for row in rows]).to(self.device)

    def inputs(self, rows: Sequence[Row], kind: str = "image") -> Tensor:
        """The rows' inputs of one of KINDS, float32 N,C,H,W, on the model's device."""
        return torch.stack([row.inputs[kind] for row in rows]).to(self.device)

    def one_hot(self, labels: Tensor) -> Tensor:
        """int64 N -> float32 N,K."""
        return nn.functional.one_hot(labels, self.classes).float()

    def to_weights(self, rows: Sequence[Row]) -> Tensor:
        """Label weights N,K of the classes that the rows go to."""
        return self.other_class(rows, self.weights(rows))

    def other_class(self, rows: Sequence[Row], y: Tensor) -> Tensor:
        """Label weights y N,K', K or more of them; where a row has a `to_class` those of that class."""
        to = [getattr(row.controls, "to_class", None) for row in rows]
        eye = torch.eye(y.shape[1], device=self.device)
        return torch.stack([own if k is None else eye[self.spec.label(k)] for own, k in zip(y, to, strict=True)])

    # -- parts ---------------------------------------------------------------------------------------------------

    def sampler(self) -> Family:
        """Drop what only trains, in place, and go to eval mode; returns self."""
        for child in list(self._modules):
            if child not in self.parts:
                del self._modules[child]
        for name in list(self._buffers):
            del self._buffers[name]
        for name in list(self._parameters):
            del self._parameters[name]
        return self.eval().requires_grad_(False)


class LatentControls(Controls):
    spread: float = Field(1.0, ge=0.0, le=2.0, description="Scale of the latent: less is more typical, more is varied")


class LatentFamily(Family):
    """Base of families that make an image in one evaluation from a normal latent and the label weights.

    Write `decode` and say how many latent dimensions there are (`config.z`). To interpolate, the latent lies between
    those of two seeds, kept at their variance, and the label weights between those of two classes.
    """

    sweep: ClassVar[Mapping[str, Sequence[Any]]] = {"spread": (0.7, 0.85, 1.0)}

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """z N,Z and label weights N,K -> float32 images N,C,H,W in [-1, 1]."""
        raise NotImplementedError

    def condition(self, y: Tensor) -> Tensor:
        """Label weights as the nets take them: all classes alike when `config.conditional` is off."""
        return y if self.config.conditional else torch.full_like(y, 1 / self.classes)

    def capabilities(self) -> dict[str, Capability]:
        return self.makes(LatentControls)

    def makes(self, controls: type[Controls]) -> dict[str, Capability]:
        """What a latent and a label allow, with these controls."""
        classes = self.spec.classes if self.config.conditional else ()
        return {
            "generate": Capability(controls=controls),
            "interpolate": Capability(controls=interpolating(controls, classes, "latent")),
        }

    def latent(self, seed: int, controls: Any) -> Tensor:
        """The latent Z of a seed."""
        return noise(seed, "z", 0, (self.config.z,)) * float(controls.spread)

    def start(self, rows: Sequence[Row]) -> State:
        ready = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        x = torch.zeros(len(rows), *self.spec.shape, device=self.device)
        z = torch.stack([self.latent(row.seed, row.controls) for row in rows]).to(self.device)
        y = self.condition(self.weights(rows))
        if rows[0].task == "interpolate":
            there = torch.stack([self.latent(row.to_seed, row.controls) for row in rows]).to(self.device)
            share = torch.tensor([[float(row.controls.share)] for row in rows], device=self.device)
            z, y = self.between(rows, z, there, share), torch.lerp(y, self.condition(self.to_weights(rows)), share)
        return State({"z": z, "y": y, "x": x, "step": ready, "steps": ready + 1})

    def between(self, rows: Sequence[Row], here: Tensor, there: Tensor, share: Tensor) -> Tensor:
        """Latents N,Z a `share` (N,1) of the way from `here` to `there`, kept at their variance."""
        same = torch.tensor([[row.to_seed == row.seed] for row in rows], device=self.device)
        return torch.lerp(here, there, share) / torch.where(same, 1.0, torch.hypot(1 - share, share))

    def step(self, state: State) -> State:
        return state.replace(x=self.decode(state["z"], state["y"]), step=state["steps"])

    def finish(self, state: State) -> Output:
        return Output(to_uint8(state["x"]))


def build(family: type[Family], config: Mapping[str, Any], spec: ImageSpec, seed: int = 0) -> Family:
    """Make a family's networks with weights that are a function of `seed`. Raises ConfigError for unusable settings."""
    from kartina.config import read

    settings = read(family.Config, config, f"settings of {family.name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family(settings, spec)


def rows_for(
    family: Family,
    labels: Sequence[int],
    n: int,
    seed: int,
    controls: Any = None,
    task: str = "generate",
    inputs: Mapping[str, Sequence[Tensor]] | None = None,
) -> list[Row]:
    """n rows: image i has seed + i, labels[i mod len(labels)] and, of each kind of inputs, the one at i mod its length.

    Raises NotFoundError for a task that the family has not, ConfigError where inputs are missing or too many.
    """
    if n < 1:
        raise ConfigError(f"Found n={n}; expected at least 1 image.")
    given = {kind: found for kind, found in (inputs or {}).items() if len(found)}
    check_inputs(family, task, given)
    eye = torch.eye(family.classes)
    settings = controls if controls is not None else family.capabilities()[task].controls()
    return [
        Row(eye[labels[i % len(labels)]], seed + i, settings, task, {k: v[i % len(v)] for k, v in given.items()})
        for i in range(n)
    ]


def check_inputs(family: Family, task: str, kinds: Collection[str]) -> None:
    """Raise NotFoundError for a task that the family has not, ConfigError where it lacks a kind of inputs, or has no
    use for one."""
    capabilities = family.capabilities()
    if task not in capabilities:
        raise NotFoundError.named("task", task, capabilities)
    takes = capabilities[task].inputs
    for kind in KINDS:
        if kind in takes and kind not in kinds:
            raise ConfigError(f"Found no {kind} for the task {task!r}; expected at least one to start from.")
        if kind in kinds and kind not in takes:
            raise ConfigError(f"Found {kind}s for the task {task!r}, which takes none. Leave them out.")


@torch.inference_mode()
def generate(
    family: Family, rows: Sequence[Row], batch: int = 64, progress: Callable[[int], None] | None = None
) -> Output:
    """Make every row's image, `batch` rows at a time, in the rows' order. `progress` gets the number made so far."""
    outputs: list[Output] = [None] * len(rows)  # type: ignore[list-item]
    made = 0
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((family.group(row)), []).append(i)
    for index in groups.values():
        for chunk in (index[i : i + batch] for i in range(0, len(index), batch)):
            state = family.start([rows[i] for i in chunk])
            while not bool(state.done.all()):
                state = family.step(state)
            out = family.finish(state)
            for j, i in enumerate(chunk):
                outputs[i] = Output(out.images[j : j + 1], {k: v[j : j + 1] for k, v in out.extras.items()})
            made += len(chunk)
            if progress is not None:
                progress(made)
    return merge(outputs)


def merge(outputs: Iterable[Output]) -> Output:
    """Concatenate outputs row by row."""
    found = list(outputs)
    keys = found[0].extras.keys()
    return Output(torch.cat([o.images for o in found]), {k: torch.cat([o.extras[k] for o in found]) for k in keys})
