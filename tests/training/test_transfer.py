"""Transfer: what is taken of another model, resume, packages with what only trains, FreezeD, fading labels."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from kartina import registry
from kartina.config import ImageSpec, RunConfig
from kartina.data.imageset import ImageSet
from kartina.errors import ConfigError, IntegrityError, NotFoundError
from kartina.generators.base import At, Batch
from kartina.generators.diffusive import DiffusiveFamily
from kartina.generators.meanflow import MeanFlow
from kartina.handlers.load import load_any
from kartina.handlers.publish import publish
from kartina.models import package
from kartina.models.model import training_keys
from kartina.training import checkpoint, transfer
from kartina.training.loop import Trainer, plan, train
from kartina.training.run import Run
from tests import tiny
from tests.training.test_resume import killed, weights

SMALL = ["z=8", "width=8", "width_max=16", "penalty_every=3", "batch=8", "threads=1", "grids=0"]
FEW = "few"


@pytest.fixture
def old(home: Path) -> Run:
    """A DCGAN of three classes that has seen a few images."""
    tiny.store(named("things", tiny.spec(32)), home)
    tiny.store(named(FEW, tiny.spec(32, classes=4)), home)
    run = Run.create(plan("dcgan-32-cpu", "things", images=8 * 5, settings=SMALL))
    train(run)
    return run


def named(name: str, shape: ImageSpec, n: int = 96) -> ImageSet:
    return replace(tiny.images(n, shape), name=name, hash=f"hash of {name}")


def planned(
    ref: str, data: str = FEW, n: int = 8 * 12, more: tuple[str, ...] = ()
) -> tuple[RunConfig, transfer.Source]:
    source = transfer.source(ref)
    return plan("dcgan-32-cpu", data, images=n, settings=[*SMALL, *more], start=source), source


def started(ref: str, data: str = FEW, n: int = 8 * 12, more: tuple[str, ...] = ()) -> Run:
    return transfer.create(*planned(ref, data, n, more))


def begin(run: Run) -> Trainer:
    return Trainer(run.config, run.data(), transfer.stored(run))


# -- what is taken -----------------------------------------------------------------------------------------------------


def test_equal_tensors_are_taken_and_those_of_the_classes_start_anew(old: Run) -> None:
    run = started(old.id)
    there = checkpoint.read(old.checkpoint()).tensors
    here, ema = begin(run).family.state_dict(), begin(run).ema.state_dict()
    start = run.config.start
    assert start is not None and start.ref == old.id

    # The generator is the averaged one, the discriminator the one that trains; the average starts where the net does.
    weight = "generator.ups.1.weight"
    assert torch.equal(here[weight], there["ema"][weight]) and not torch.equal(here[weight], there["model"][weight])
    assert torch.equal(ema[weight], here[weight])
    conv = "discriminator.convs.1.weight"
    assert torch.equal(here[conv], there["model"][conv])

    # Four classes instead of three: each label's map is new, nothing else is.
    unlike = {k for k, v in here.items() if v.shape != there["model"][k].shape}
    assert unlike == set(start.new) and "discriminator.label.weight" in unlike
    assert all(re.search(r"\.(gain|bias|label)\.", key) for key in unlike)
    assert start.taken == len(here) - len(unlike)
    fresh = Trainer(run.config, run.data()).family.state_dict()
    assert all(torch.equal(here[k], fresh[k]) for k in unlike)
    said = transfer.line(start)
    assert f"Starts from {old.id}: {start.taken} tensors taken; new: " in said and "\n" not in said
    assert all(name in said for name in start.new[: transfer.SHOWN])


def test_state_of_a_training_is_not_taken(old: Run) -> None:
    """ADA's p is the old run's business; batch statistics belong to the networks."""
    ada = started(old.id, n=80, more=("augment=ada",))
    trainer = begin(ada)
    trainer.family.ada.p.fill_(0.5)
    trainer.step()
    trainer.save(ada.path / "checkpoints")
    assert float(trainer.family.ada.p) > 0.4
    again = begin(started(ada.id, n=80, more=("augment=ada",))).family.state_dict()
    assert float(again["ada.p"]) == 0
    settled = ada.ema().state_dict()
    norms = [k for k in again if "running_" in k and k.startswith("generator.")]
    assert norms and all(torch.equal(again[k], settled[k]) for k in norms)


def test_the_hash_is_that_of_the_weights_in_the_folder(old: Run) -> None:
    run = started(old.id)
    stored = json.loads((run.path / "config.json").read_text())["start"]
    assert stored["hash"] == checkpoint.sha256(run.path / "start.safetensors")
    assert set(load_file(run.path / "start.safetensors")) == set(begin(run).family.state_dict()) - set(stored["new"])
    assert started(old.id).config.start == run.config.start  # the same start again


@pytest.mark.parametrize(
    ("preset", "settings", "says"),
    [
        ("vae-32-cpu", ["width=8"], r"a dcgan; this preset makes a vae.*own family"),
        ("dcgan-32-cpu", [*SMALL, "width=12", "width_max=12", "z=9"], r"no weight.*fits.*width is 8 there and 12 here"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_words(old: Run, preset: str, settings: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(preset, FEW, images=80, settings=settings, start=transfer.source(old.id))


def test_a_start_whose_network_states_something_else_is_refused(home: Path) -> None:
    """Weights of the same shapes that mean something else. A package from before there was a choice states noise."""
    tiny.store(named("things", tiny.spec(32)), home)
    small = ["widths=[8,8]", "blocks=1", "attention=[1]", "batch=8", "threads=1", "grids=0"]
    run = Run.create(plan("ddpm-32-cpu", "things", images=8, settings=[*small, "states=noise", "snr_max=0"]))
    train(run)
    source = transfer.source(run.id)
    older = replace(source, config={k: v for k, v in source.config.items() if k not in ("states", "snr_max")})
    for given in (source, older):
        with pytest.raises(ConfigError, match=r"states noise, and states image here.*--set states=noise"):
            plan("ddpm-32-cpu", "things", images=8, settings=small, start=given)
        plan("ddpm-32-cpu", "things", images=8, settings=[*small, "states=noise"], start=given)
        with pytest.raises(
            ConfigError, match=r"schedule cosine, and schedule linear here"
        ):  # the network is told steps
            plan("ddpm-32-cpu", "things", images=8, settings=[*small, "states=noise", "schedule=linear"], start=given)
    other = Run.create(plan("ddpm-32-cpu", "things", images=8, settings=small))
    train(other)
    with pytest.raises(ConfigError, match="whose states are not those of"):
        run.trained("cpu", [other])  # nor are they averaged


def test_unknown_starts(old: Run) -> None:
    with pytest.raises(NotFoundError, match="model or run called 'nothing'"):
        transfer.source("nothing")
    fresh = Run.create(plan("dcgan-32-cpu", "things", images=8, settings=SMALL))
    with pytest.raises(NotFoundError, match="no checkpoint"):
        transfer.source(fresh.id)


@pytest.mark.parametrize("name", registry.names())
def test_every_family_starts_from_its_like(name: str) -> None:
    """All of it for the same classes; for one class more, all but a few tensors; then a step can be made."""
    there = tiny.family(name, seed=1)
    state = there.state_dict()
    wanted = [k for k in state if k in training_keys(there) or k.split(".")[0] in there.parts]
    source = transfer.Source("there", name, there.config.model_dump(mode="json"), {k: state[k] for k in wanted}, "")
    data = tiny.images(shape=tiny.fitted(name))
    config = tiny.run_config(name, data, 80)
    taken = transfer.take(source, transfer.on_meta(config))
    assert not taken.start.new and taken.start.taken == len(wanted)
    trainer = Trainer(config, data, load(taken.content))
    for key, p in trainer.family.named_parameters():  # a buffer may have been made from the data (VBN's reference)
        assert torch.equal(p, state[key]), key
    trainer.step()

    wider = tiny.images(shape=tiny.fitted(name, tiny.spec(classes=4)))
    taken = transfer.take(source, transfer.on_meta(tiny.run_config(name, wider, 80)))
    assert 0 <= len(taken.start.new) < len(wanted) / 2
    assert taken.keys.isdisjoint(taken.start.new)


# -- resume ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_resumed_without_the_source_equals_undisturbed(old: Run) -> None:
    whole, broken = started(old.id), started(old.id)
    scratch = Run.create(plan("dcgan-32-cpu", FEW, images=8 * 12, settings=SMALL))
    shutil.rmtree(old.path)
    for run in (whole, scratch):
        assert train(run) == "finished"
    killed(broken, "after", 7)  # at an odd step, in the middle of a lazy phase's interval
    assert train(broken) == "finished"
    a, b, c = weights(whole), weights(broken), weights(scratch)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["ema/generator.ups.1.weight"], c["ema/generator.ups.1.weight"])


def test_lost_or_changed_starting_weights_are_named(old: Run) -> None:
    run = started(old.id)
    path = run.path / "start.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"start\.safetensors changed"):
        train(run)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"start\.safetensors missing.*--from"):
        train(run)
    path.write_bytes(content)
    assert train(run) == "finished"
    path.unlink()  # from now on the checkpoint says it all
    assert train(run) == "finished"


# -- packages ----------------------------------------------------------------------------------------------------------


def test_a_package_starts_the_same_run_as_the_run_it_was_published_from(old: Run) -> None:
    publish(old.id, "whole", evaluate=False, with_training=True, precision="fp32")
    publish(old.id, "half", evaluate=False, with_training=True)
    run, whole, half = (planned(ref)[0].start for ref in (old.id, "whole", "half"))
    assert run is not None and whole is not None and half is not None
    assert run.hash == whole.hash and run.new == whole.new and whole.ref == "whole@1"  # bit for bit
    assert half.hash != run.hash and half.taken == run.taken
    exact, rounded = transfer.source(old.id).tensors, transfer.source("half").tensors
    assert exact.keys() == rounded.keys()
    for key, value in exact.items():
        torch.testing.assert_close(rounded[key], value, rtol=2**-11, atol=2**-24)  # half an ulp of float16


def test_a_package_without_what_only_trains_gives_the_generator(old: Run) -> None:
    found = publish(old.id, "plain", evaluate=False)
    assert package.read_manifest(found.path).train is None and not (found.path / "train.safetensors").exists()
    start = planned("plain")[0].start
    assert start is not None and "discriminator.*" in start.new and "discriminator.*" in transfer.line(start)
    with pytest.raises(ConfigError, match=r"tensors as they begin \(first discriminator\..*--with-training"):
        planned("plain", more=("freeze_d=1",))
    with pytest.raises(ConfigError, match="freeze_d"):  # nor has a run from random weights anything to keep
        plan("dcgan-32-cpu", FEW, images=80, settings=[*SMALL, "freeze_d=1"])


def test_what_only_trains_is_checked_and_never_read_for_sampling(old: Run) -> None:
    found = publish(old.id, "big", evaluate=False, with_training=True)
    part = package.read_manifest(found.path).train
    assert part is not None and part.file == "train.safetensors"
    path = found.path / part.file
    tensors = load_file(path)
    assert {k.split(".")[0] for k in tensors} == {"discriminator"}
    assert tensors["discriminator.join.weight"].dtype == torch.float16
    plain = publish(old.id, "small", evaluate=False)
    assert package.read_manifest(plain.path).hash != package.read_manifest(found.path).hash

    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="sha256"):
        transfer.source("big")
    path.unlink()
    with pytest.raises(IntegrityError, match=r"no train\.safetensors"):
        transfer.source("big")
    os.mkfifo(path)  # reading it would wait for ever
    assert len(load_any("big").sample(n=2)) == 2

    # Caps hold for it too, before anything is read.
    manifest = json.loads((found.path / "model.json").read_text())
    manifest["train"]["parameters"] = package.MAX_PARAMETERS
    manifest["hash"] = package.content_hash(manifest)
    (found.path / "model.json").write_text(json.dumps(manifest))
    for read in (load_any, transfer.source):
        with pytest.raises(IntegrityError, match="at most"):
            read("big")


def test_a_learned_noise_level_travels_and_a_flow_needs_nothing_more(home: Path) -> None:
    vae, flow = (tiny.run(name, home, n=16) for name in ("vae", "flow"))
    for run, keys in ((vae, {"log_sigma"}), (flow, None)):
        train(run)
        found = publish(run.id, f"my-{run.config.family}", evaluate=False, with_training=True)
        assert (package.read_manifest(found.path).train is None) == (keys is None)
        if keys:
            assert set(load_file(found.path / "train.safetensors")) == keys
        taken = transfer.take(transfer.source(f"my-{run.config.family}"), transfer.on_meta(run.config))
        assert not taken.start.new


# -- few images --------------------------------------------------------------------------------------------------------


def test_frozen_layers_stay_and_others_train(old: Run) -> None:
    trainer = begin(started(old.id, data="things", more=("freeze_d=2",)))
    before = {k: v.clone() for k, v in trainer.family.named_parameters()}
    for _ in range(4):  # a penalty among them
        trainer.step()
    changed = {k for k, v in trainer.family.named_parameters() if not torch.equal(v, before[k])}
    frozen = {k for k in before if k.startswith(("discriminator.convs.0.", "discriminator.convs.1."))}
    assert len(frozen) == 4 and changed == before.keys() - frozen
    there = checkpoint.read(old.checkpoint()).tensors["model"]
    assert all(torch.equal(before[k], there[k]) for k in frozen)


def test_the_label_fades_in(old: Run) -> None:
    """Until `transition` starts, neither the generated image nor D's score of it depends on the label."""
    run = started(old.id, data="things", n=1000, more=("transition=0.2,0.6",))
    assert run.config.config["transition"] == [0.2, 0.6]
    trainer = begin(run)
    trainer.step()
    family = trainer.family.eval()

    def seen(label: int, fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
        at = At(0, round(1000 * fraction), 1000, torch.Generator().manual_seed(0), torch.ones(3) / 3)
        batch = Batch(torch.zeros(2, 1, 32, 32), torch.full((2,), label), torch.arange(2))
        y = family.label(batch, at)
        images = family.fake(y, at)
        return images, family.discriminator(images, y)

    with torch.no_grad():
        for fraction in (0.0, 0.1, 0.2):
            assert all(torch.equal(a, b) for a, b in zip(seen(0, fraction), seen(2, fraction), strict=True))
        apart = [float((seen(0, f)[0] - seen(2, f)[0]).abs().mean()) for f in (0.3, 0.4, 0.6, 1.0)]
    assert 0 < apart[0] < apart[1] < apart[2] == apart[3]


# -- a teacher ---------------------------------------------------------------------------------------------------------

DISTIL = ["widths=[8,16]", "attention=[1]", "batch=8", "threads=1", "grids=0", "checkpoint_every=0"]


@pytest.fixture
def flow(old: Run) -> Run:
    """A little flow of the same data."""
    run = Run.create(plan("flow-32-cpu", "things", images=8, settings=DISTIL))
    train(run)
    return run


TAUGHT: dict[str, list[str]] = {"distil": [], "onestep": ["ends=6"], "halve": ["ends=6"]}


def distilled(teacher: str, start: str | None = None, n: int = 32, how: str = "distil") -> Run:
    given = transfer.source(start) if start else None, transfer.source(teacher)
    settings = [*DISTIL, *TAUGHT[how]]
    config = plan(f"meanflow-{how}-32-cpu", "things", images=n, settings=settings, start=given[0], teacher=given[1])
    return transfer.create(config, *given)


def test_a_teacher_is_taken_whole_and_stays_as_it_was(flow: Run) -> None:
    run = distilled(flow.id)
    start = run.config.start
    assert start is not None and start.teacher == flow.id and start.new == ("generator.*",)
    assert transfer.line(start) == f"Learns from {flow.id}; starts from random weights."
    averaged = {f"teacher.{k}": v for k, v in flow.ema().state_dict().items()}
    for trained in (False, True):
        if trained:
            train(run)
        state = checkpoint.read(run.checkpoint()).tensors["model"] if trained else begin(run).family.state_dict()
        assert {k for k in state if k.startswith("teacher.")} == set(averaged)
        assert all(torch.equal(state[k], averaged[k]) for k in averaged)

    # What was taught starts another one, taught by the same, and needs no teacher to make images.
    again = distilled(flow.id, run.id)
    assert again.config.start is not None and not again.config.start.new and again.config.start.ref == run.id
    assert f"Learns from {flow.id}. Starts from {run.id}" in transfer.line(again.config.start)
    ref = publish(run.id, "one-step", evaluate=False)
    assert not any("teacher" in key for key in load_any(str(ref)).family.state_dict())


@pytest.mark.parametrize("how", [pytest.param(h, marks=() if h == "onestep" else pytest.mark.slow) for h in TAUGHT])
def test_a_taught_run_resumes_to_the_bit_without_its_teacher(flow: Run, how: str) -> None:
    teacher = flow
    if how == "halve":
        train(teacher := distilled(flow.id))
    whole, parts = (distilled(teacher.id, how=how) for _ in range(2))
    shutil.rmtree(flow.path)
    if teacher is not flow:
        shutil.rmtree(teacher.path)
    train(whole)
    seen: list[int] = []
    train(parts, stop=lambda: seen.append(1) is None and len(seen) > 2)
    assert parts.status()["images"] < 32
    train(parts)
    there, here = (checkpoint.read(run.checkpoint()).tensors["model"] for run in (whole, parts))
    assert all(torch.equal(there[key], here[key]) for key in there)
    assert whole.config.start is not None
    assert transfer.line(whole.config.start) == f"Learns from {teacher.id}; starts from random weights."
    ref = publish(whole.id, how, evaluate=False, with_training=True)
    started = transfer.source(str(ref)).tensors
    assert not [key for key in started if key.startswith("end_")] and "teacher.generator.last.weight" in started


def test_a_flow_that_was_told_of_augmentations_teaches_and_starts(old: Run) -> None:
    flow = Run.create(plan("flow-32-cpu", "things", images=8, settings=[*DISTIL, "augment=0.3"]))
    train(flow)
    train(run := distilled(flow.id, flow.id))
    start = run.config.start
    assert start is not None and all(key.startswith("generator.span.1.") for key in start.new)


def test_a_teacher_of_other_images_is_named(flow: Run) -> None:
    given = transfer.source(flow.id)
    assert transfer.strange(given, distilled(flow.id).config) is None
    told = transfer.strange(replace(given, data="0" * 64), distilled(flow.id).config)
    assert told is not None and f"{flow.id} learnt from other images (000000000000) than things" in told


def test_what_learns_from_a_flow_starts_from_one(flow: Run) -> None:
    """The networks are the same but for the reach of a step; without a teacher the two are families of their own."""
    start = distilled(flow.id, flow.id).config.start
    assert start is not None and all(key.startswith("generator.span.1.") for key in start.new) and len(start.new) == 2
    averaged = flow.ema().state_dict()
    family = begin(run := distilled(flow.id, flow.id)).family
    state, told = family.state_dict(), "generator.time.1.weight"
    assert all(torch.equal(state[key], value) for key, value in averaged.items() if key != told)

    # It begins as the flow: of the features of a time those that the flow has of higher frequencies are not there.
    source = flow.ema()
    slow = source.state_dict()[told].clone()
    half = slow.shape[1] // 2
    assert (slow[:, : half // 2] != 0).any()
    for first in (0, half):
        slow[:, first : first + half // 2] = 0
    source.get_parameter(told).data.copy_(slow)
    assert isinstance(family, MeanFlow) and isinstance(source, DiffusiveFamily)
    x, t = torch.randn(5, 1, 32, 32), torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    y = torch.eye(source.classes + 1)[[0, 1, 2, 0, -1]]
    with torch.no_grad():
        assert torch.allclose(family.eval().clean(x, t, t, y), source.denoise(x, t, y), atol=1e-5)
    train(run)
    for how in ("meanflow-32-cpu", "meanflow-halve-32-cpu"):
        with pytest.raises(ConfigError, match="its own family" if how == "meanflow-32-cpu" else "that of its teacher"):
            plan(how, "things", images=8, settings=DISTIL, start=transfer.source(flow.id))


def test_a_teacher_is_never_taken_from_a_start(flow: Run) -> None:
    """It may be of another kind: a MeanFlow's tensors contain a flow's by name and shape, but say other things."""
    train(first := distilled(flow.id))
    train(halved := distilled(first.id, first.id, how="halve"))
    assert halved.config.start is not None and not halved.config.start.new
    assert f"Learns from {first.id}. Starts from {first.id}: " in transfer.line(halved.config.start)
    for start, how in ((halved, "distil"), (halved, "onestep"), (first, "halve")):
        settings = [*DISTIL, *TAUGHT[how]]
        with pytest.raises(ConfigError, match="and no teacher; give it --teacher, a"):
            plan(f"meanflow-{how}-32-cpu", "things", images=8, settings=settings, start=transfer.source(start.id))
    again = distilled(flow.id, halved.id, how="onestep")
    train(again)
    state = checkpoint.read(again.checkpoint()).tensors["model"]
    averaged = flow.ema().state_dict()
    assert all(torch.equal(state[f"teacher.{key}"], value) for key, value in averaged.items())


def test_teachers_that_cannot_teach_are_refused_in_words(old: Run, flow: Run) -> None:
    def told(preset: str, more: list[str], **given: str) -> str:
        with pytest.raises(ConfigError) as error:
            plan(preset, "things", images=8, settings=more, **{k: transfer.source(v) for k, v in given.items()})
        return str(error.value)

    assert "no teacher; give it --teacher, a flow" in told("meanflow-distil-32-cpu", DISTIL)
    assert f"{old.id}, a dcgan, as the teacher of a meanflow; expected a flow" in told(
        "meanflow-distil-32-cpu", DISTIL, teacher=old.id
    )
    said = told("meanflow-distil-32-cpu", [*DISTIL, "widths=[8,24]"], teacher=flow.id)
    assert "not those of this meanflow" in said and "(widths is [8, 16] there and [8, 24] here)" in said
    # A flow with attention at one level more has all the tensors that are wanted, and would be cut down.
    train(wide := Run.create(plan("flow-32-cpu", "things", images=8, settings=[*DISTIL, "attention=[0,1]"])))
    said = told("meanflow-distil-32-cpu", DISTIL, teacher=wide.id)
    assert "not those of this meanflow" in said and "(attention is [0, 1] there and [1] here)" in said
    assert "a flow, as the teacher of a meanflow; expected a meanflow" in told(
        "meanflow-halve-32-cpu", [*DISTIL, "ends=6"], teacher=flow.id
    )
    assert "shift 1.0, and shift 2.0 here; expected the same. Give --set shift=1.0" in told(
        "meanflow-onestep-32-cpu", [*DISTIL, "ends=6", "shift=2"], teacher=flow.id
    )
    assert "this dcgan learns from none. Leave it out" in told("dcgan-32-cpu", SMALL, teacher=flow.id)
    assert "meanflows can, with taught=true" in told("meanflow-32-cpu", DISTIL, teacher=flow.id)
