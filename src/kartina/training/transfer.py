"""Transfer: a run that starts from the weights of another model of its family, for classes with few images.

What is taken is decided once, when the run is planned. Each tensor of the new networks that the source has by the same
name, shape and type is taken; the others start anew: those that depend on the classes where their number differs, those
of other widths, and a discriminator where the source is a package that was published without it. Taken weights are
copied into the run's folder (`start.safetensors`) and its config holds their hash, so that a run stays a function of
its config and its folder, whatever becomes of the source.

A family that learns from another model (`Family.taught`) takes that one's generator in the same way, for its own child
`teacher`, a family too: all of it, for part of a teacher teaches nothing. It may also start from a model of that one's
family, whose networks are its own but for a tensor or two (`Family.translated`).

A source's generator is its averaged one, settled: what a package holds. Its discriminator (or what else only trains)
is the live one, of the run's newest checkpoint or the package's `train.safetensors`; hence a package in fp32 and the
run that it was published from start the same run. Optimisers, ADA's p and other state of a training start anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from kartina import registry
from kartina.config import RunConfig, Start, read
from kartina.errors import ConfigError, IntegrityError
from kartina.generators.base import Family, build
from kartina.models.model import load, load_training, training_keys
from kartina.training import checkpoint
from kartina.training.run import Run, fill, find

FILE = "start.safetensors"
SHOWN = 6  # names of new tensors in one line


@dataclass(frozen=True)
class Source:
    """The weights of a model or run, as another run may start from them."""

    ref: str
    family: str
    config: Mapping[str, Any]  # the family's
    tensors: Mapping[str, Tensor]  # on the CPU, by the family's state keys
    data: str  # hash of the data set that it learnt from


@dataclass(frozen=True)
class Taken:
    """What one run takes of a source."""

    content: bytes  # of start.safetensors
    keys: frozenset[str]
    start: Start  # as the run's config records it


def source(ref: str) -> Source:
    """The weights of a model (name, name@2, hash, folder) or of a run's newest checkpoint (id, number, folder).

    Raises NotFoundError for an unknown reference or a run without a checkpoint, IntegrityError for damaged files.
    """
    found = find(ref)
    if isinstance(found, Run):
        family, counters = found.trained()
        whole = live(found, int(counters["images"]))
        state = whole.state_dict()
        trains = {key: state[key] for key in training_keys(whole)}
        return Source(
            found.id, family.name, found.config.config, {**family.state_dict(), **trains}, found.config.data_hash
        )
    model = load(found)
    assert model.manifest is not None  # a loaded package has one
    tensors = {**model.family.state_dict(), **load_training(model.manifest, found.path)}
    return Source(str(found), model.family.name, model.manifest.config, tensors, model.manifest.provenance.data_hash)


def live(run: Run, images: int) -> Family:
    """The whole family of the run's checkpoint at `images`, with the weights that train (not their average)."""
    found = checkpoint.read(run.path / "checkpoints" / f"{images:012d}")
    family = build(registry.family(run.config.family), run.config.config, run.config.spec)
    fill(family, found.tensors["model"], run.id)
    return family


def take(source: Source | None, family: Family, teacher: Source | None = None) -> Taken | None:
    """What `family` (whose tensors may be on the meta device) takes of `source`, and of the `teacher` that it is given;
    None where it is given neither.

    Raises ConfigError where they are of other families than it takes, or share no weight with it (a bias alone is
    none), and where it has a teacher to be given and is not, or the other way round.
    """
    teachers = family.teachers if family.taught else ()
    if source is not None and source.family not in {family.name, *teachers}:
        raise ConfigError(
            f"Found {source.ref}, a {source.family}; this preset makes a {family.name}, and a run starts only from its "
            f"own family{' or that of its teacher' if teachers else ''}. Choose a preset of {source.family} (kartina "
            f"presets), or another model."
        )
    if source is not None and source.family == family.name:
        _check_stated(source, family)
    # A teacher is never taken from the start: its own may be of another kind.
    given = source.tensors if source is not None else {}
    if source is not None and source.family != family.name:
        given = family.translated(source.family, given)
    tensors = {key: t for key, t in given.items() if not key.startswith("teacher.")}
    if teacher is not None:
        tensors |= _lesson(teacher, family)
    state = family.state_dict()
    trains = set(training_keys(family))
    wanted = {key: value for key, value in state.items() if key in trains or key.split(".")[0] in family.parts}
    taken = {key: tensors[key] for key, value in wanted.items() if _fits(tensors.get(key), value)}
    if source is not None and not any(value.dim() > 1 and key in source.tensors for key, value in taken.items()):
        raise ConfigError(
            f"Found no weight of {source.ref} that fits this {family.name}; expected networks of the same size. Give "
            f"--set the settings that it was trained with ({_unlike(source, family)})."
        )
    # All of a teacher, and nothing left over: a level's attention that has no place here would be cut out of it. What
    # its network is told besides the class (of augmentations) is nothing where it makes images.
    lessons = {key for key in [*wanted, *tensors] if key.startswith("teacher.") and ".told." not in key}
    if family.taught and (lost := [key for key in lessons if key not in taken]):
        if teacher is not None:
            raise ConfigError(
                f"Found {len(lost)} tensors of the teacher {teacher.ref} that are not those of this {family.name} "
                f"(first {min(lost)}); expected networks of the same size and the same classes. Give --set the "
                f"settings that it was trained with ({_unlike(teacher, family.get_submodule('teacher'))})."
            )
        raise ConfigError(
            f"Found settings of a {family.name} that learns from a teacher, and no teacher; give it --teacher, a "
            f"{' or '.join(family.teachers)} of the same data."
        )
    if not taken:
        return None
    content = save_tensors(checkpoint.apart(taken))
    refs = [given.ref for given in (source, teacher) if given is not None]
    start = Start(
        ref=refs[0], teacher=teacher.ref if teacher is not None else None,
        hash=hashlib.sha256(content).hexdigest(), taken=len(taken), new=_missing(wanted, taken),
    )  # fmt: skip
    return Taken(content, frozenset(taken), start)


def _lesson(teacher: Source, family: Family) -> dict[str, Tensor]:
    """The teacher's generator, as that of the family's child `teacher`."""
    if not family.taught:
        able = f"; {family.name}s can, with taught=true" if family.teachers else ""
        raise ConfigError(f"Found a teacher, {teacher.ref}; this {family.name} learns from none{able}. Leave it out.")
    if teacher.family not in family.teachers:
        raise ConfigError(
            f"Found {teacher.ref}, a {teacher.family}, as the teacher of a {family.name}; expected a "
            f"{' or '.join(family.teachers)}."
        )
    own: Any = family.get_submodule("teacher")
    for key in own.sampled_by:
        here, there = (config.get(key) for config in (own.config.model_dump(mode="json"), teacher.config))
        if there != here:
            raise ConfigError(
                f"Found the teacher {teacher.ref}, which makes its images with {key} {there}, and {key} {here} here; "
                f"expected the same. Give --set {key}={there}."
            )
    return {f"teacher.{key}": t for key, t in teacher.tensors.items() if key.startswith("generator.")}


def _check_stated(source: Source, family: Family) -> None:
    """ConfigError where the networks of the source state something else than those of the family will."""
    config: Any = family.config
    for key in family.stated_by:
        there = source.config.get(key, type(config).model_fields[key].default)  # an older one had no choice
        if there != (here := getattr(config, key)):
            raise ConfigError(
                f"Found {source.ref}, trained with {key} {there}, and {key} {here} here; its weights mean something "
                f"else then. Give --set {key}={there}."
            )


def _fits(given: Tensor | None, wanted: Tensor) -> bool:
    return given is not None and given.shape == wanted.shape and given.dtype == wanted.dtype


def _unlike(source: Source, family: nn.Module) -> str:
    """The settings of sizes in which the two differ, in words."""
    config: Any = family.config
    here, there = config.model_dump(mode="json"), source.config
    sizes = [k for k, v in here.items() if isinstance(v, int | list) and not isinstance(v, bool)]
    unlike = [f"{k} is {there.get(k)} there and {here[k]} here" for k in sizes if there.get(k) != here[k]]
    return "; ".join(unlike[:8]) or "the images differ"


def _missing(wanted: Iterable[str], taken: Collection[str]) -> tuple[str, ...]:
    """The wanted keys that were not taken, after the networks that are new as a whole: `discriminator.*`."""
    used = {key.split(".")[0] for key in taken}
    new = [key for key in wanted if key not in taken]
    whole = {key: f"{key.split('.')[0]}.*" for key in new if "." in key and key.split(".")[0] not in used}
    return (*dict.fromkeys(whole.values()), *(key for key in new if key not in whole))


def check_frozen(family: Family, taken: Collection[str]) -> None:
    """ConfigError when a parameter that no phase trains (`freeze_d`) would stay at its random first value.

    One that asks for no gradient is set by the family itself (a weak copy).
    """
    trained = {id(p) for phase in family.phases() for p in phase.params}
    asking = {key: p for key, p in family.named_parameters() if p.requires_grad}
    lost = [key for key, p in asking.items() if id(p) not in trained and key not in taken]
    if lost:
        raise ConfigError(
            f"Found settings that keep {len(lost)} tensors as they begin (first {lost[0]}), and no start that gives "
            f"them values worth keeping. Start --from a run, or from a model published --with-training, or leave out "
            f"freeze_d."
        )


def create(config: RunConfig, source: Source | None = None, teacher: Source | None = None) -> Run:
    """A new run folder; with what it takes of `source` and `teacher`, when it was planned to start from there."""
    return Run.create(config, files(config, source, teacher))


def files(config: RunConfig, source: Source | None, teacher: Source | None) -> dict[str, bytes]:
    """The weights that the run's folder keeps, by their file; none where it starts from random ones."""
    taken = take(source, on_meta(config), teacher)
    assert config.start == (taken and taken.start), "the config was planned with another start"
    return {FILE: taken.content} if taken else {}


def on_meta(config: RunConfig) -> Family:
    """The run's networks on the meta device: shapes without storage."""
    family = registry.family(config.family)
    with torch.device("meta"):
        built: Family = family(read(family.Config, config.config, f"settings of {config.family}"), config.spec)
    return built


def stored(run: Run) -> dict[str, Tensor] | None:
    """The weights that a run starts from, from its folder; None for one that starts from random ones.

    Raises IntegrityError where they are missing or not those that its config tells of.
    """
    if run.config.start is None:
        return None
    path = run.path / FILE
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != run.config.start.hash:
        what = "changed" if content else "missing"
        raise IntegrityError(
            f"Found {path} {what}; run {run.id} starts from the weights of {run.config.start.ref} that were copied "
            f"there. Restore the file, or train anew --from {run.config.start.ref}."
        )
    return load_tensors(content)


def put(family: Family, tensors: Mapping[str, Tensor]) -> None:
    """Give a freshly built family its starting weights, in place. Raises IntegrityError where one does not fit."""
    state = family.state_dict()
    unlike = [key for key, value in tensors.items() if key not in state or state[key].shape != value.shape]
    if unlike:
        raise IntegrityError(
            f"Found starting weights that do not fit the networks of this version (first {unlike[0]}). Continue the "
            f"run with the version that made it, or train anew."
        )
    family.load_state_dict(dict(tensors), strict=False)


def strange(teacher: Source, config: RunConfig) -> str | None:
    """One line for the user where a teacher learnt from other images than the run will: it may be what is wanted, or
    the same images imported with another --fit, of which it knows nothing."""
    if teacher.data == config.data_hash:
        return None
    return (
        f"Found that {teacher.ref} learnt from other images ({teacher.data[:12]}) than {config.data} "
        f"({config.data_hash[:12]}) holds: it teaches well where they look alike, down to size and place in the frame."
    )


def line(start: Start) -> str:
    """One line for the user: where the weights come from, how many were taken, which are new."""
    more = len(start.new) - SHOWN
    new = ", ".join(start.new[:SHOWN]) + (f" and {more} more" if more > 0 else "") if start.new else "none"
    if start.ref == start.teacher and "generator.*" in start.new:  # a model may be both, the start and the teacher
        return f"Learns from {start.teacher}; starts from random weights."
    taught = f"Learns from {start.teacher}. " if start.teacher else ""
    return f"{taught}Starts from {start.ref}: {start.taken} tensors taken; new: {new}."
