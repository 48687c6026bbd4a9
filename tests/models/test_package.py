"""Packages: written whole or not at all, found by name and hash, and believed only as far as they were checked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from kartina import registry
from kartina.config import FamilyConfig, ImageSpec
from kartina.errors import ConfigError, ConflictError, DataError, IntegrityError, NotFoundError, StorageError
from kartina.generators.base import Capability, Controls, Family, Output, State, build, noise, to_uint8
from kartina.models import package, png
from kartina.models.model import Model, load, save
from kartina.models.package import Provenance

SPEC = ImageSpec(height=8, width=8, channels=1, classes=("cat", "dog/wolf", "кот"))


class ToyConfig(FamilyConfig):
    width: int = Field(4, ge=1, le=4096)


class ToyControls(Controls):
    strength: float = Field(1.0, ge=0, le=2)


class Generator(nn.Module):
    def __init__(self, width: int, classes: int, pixels: int):
        super().__init__()
        self.first = nn.Linear(width + classes, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, pixels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(torch.relu(self.norm(self.first(z)))))


class Toy(Family):
    """One linear layer per class mixture: enough to be packaged."""

    Config: ClassVar[Any] = ToyConfig

    def __init__(self, config: ToyConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.generator = Generator(config.width, self.classes, int(np.prod(spec.shape)))
        self.critic = nn.Linear(3, 3)
        self.register_buffer("p", torch.zeros(1))

    def capabilities(self) -> dict[str, Capability]:
        return {"generate": Capability(controls=ToyControls)}

    def start(self, rows: Any) -> State:
        z = torch.stack([noise(row.seed, "z", 0, (self.config.width,)) * row.controls.strength for row in rows])
        steps = torch.ones(len(rows), dtype=torch.int64)
        return State({"x": torch.cat([z, self.weights(rows)], 1), "step": steps - 1, "steps": steps})

    def step(self, state: State) -> State:
        return state.replace(step=state["steps"])

    def finish(self, state: State) -> Output:
        return Output(to_uint8(self.generator(state["x"]).view(-1, *self.spec.shape)))


class Forgetful(Toy):
    """Its buffer is computed by the constructor and kept out of the file."""

    def __init__(self, config: ToyConfig, spec: ImageSpec):
        super().__init__(config, spec)
        self.generator.register_buffer("table", torch.arange(4.0), persistent=False)


@pytest.fixture(autouse=True)
def families() -> Iterator[None]:
    registry.register("tiny")(Toy)
    registry.register("forgetful")(Forgetful)
    yield
    registry.unregister("tiny")
    registry.unregister("forgetful")


ORIGIN = Provenance(
    preset="toy-8", data="pets", data_hash="f" * 64, images=10, seconds=1.5, seed=0, kartina="0.1.0",
    created_at="2026-01-01T00:00:00Z",
)  # fmt: skip
CARD = {"licence": "CC0-1.0", "about": "a toy", "metrics": {}, "per_class": []}


def toy(name: str = "tiny", seed: int = 0) -> Family:
    return build(registry.family(name), {"width": 4}, SPEC, seed).eval()


@pytest.fixture
def saved(home: Path) -> package.PackageRef:
    return save(toy(), "pets", ORIGIN, CARD, defaults={"generate": {"strength": 0.5}})


def test_round_trip_samples_the_same(saved: package.PackageRef) -> None:
    here, there = Model(toy(), "x"), load("pets")
    a, b = (m.sample(["cat", 2], n=5, seed=7, strength=1.0) for m in (here, there))
    assert (a.images == b.images).all() and a.images.dtype == np.uint8 and a.images.shape == (5, 1, 8, 8)
    assert b.labels.tolist() == [0, 2, 0, 2, 0] and b.seeds == (7, 8, 9, 10, 11)
    assert there.manifest is not None and there.manifest.parameters == sum(
        t.numel() for t in there.family.generator.state_dict().values()
    )
    assert there.card == CARD and not hasattr(there.family, "critic")
    # An image depends on its own seed alone.
    alone = there.sample(["cat"], n=1, seed=9, strength=1.0, batch=1)
    assert np.abs(alone.images[0].astype(int) - b.images[2]).max() <= 1


def test_controls_package_over_family_over_given(saved: package.PackageRef) -> None:
    model = load("pets@1")
    assert model.controls().strength == 0.5  # type: ignore[attr-defined]
    assert model.controls(strength=2).strength == 2  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="guidance"):
        model.sample(guidance=2)
    with pytest.raises(ConfigError, match="strength"):
        model.sample(strength=9)
    with pytest.raises(NotFoundError, match=r"horse.*cat"):
        model.sample(["horse"])
    with pytest.raises(NotFoundError):
        model.sample([3])
    with pytest.raises(ConfigError, match="seed"):
        model.sample(seed=-1)
    with pytest.raises(ConfigError, match="n=0"):
        model.sample(n=0)
    with pytest.raises(ConfigError, match="defaults"):
        save(toy(), "pets", ORIGIN, CARD, defaults={"generate": {"strength": 9}})


def test_versions_names_and_hashes(saved: package.PackageRef, home: Path, tmp_path: Path) -> None:
    second = save(toy(seed=1), "pets", ORIGIN, CARD)
    same = save(toy(seed=1), "animals", ORIGIN, CARD)
    assert [str(p) for p in package.list_packages() if not p.bundled] == ["animals@1", "pets@2", "pets@1"]
    assert str(package.find("pets")) == "pets@2" and str(package.find("pets@1")) == "pets@1"
    one, two = package.read_manifest(saved.path), package.read_manifest(second.path)
    assert one.hash != two.hash == package.read_manifest(same.path).hash  # name and version are not content
    assert package.find(one.hash[:8]) == saved
    assert package.find(str(second.path)).path == second.path
    with pytest.raises(NotFoundError):
        package.find(str(second.path), paths=False)
    with pytest.raises(NotFoundError, match="Did you mean 'pets'"):
        package.find("pet")
    with pytest.raises(NotFoundError, match="pets@1"):
        package.find("pets@9")
    assert package.remove("pets@2") == second and not second.path.exists()
    assert package.next_version("pets") == 2
    package.remove("pets")
    assert not (home / "models" / "pets").exists()
    assert sorted(p.name for p in (home / "models").iterdir()) == ["animals"]
    elsewhere = tmp_path / "elsewhere"
    same.path.rename(elsewhere)
    with pytest.raises(ConflictError):
        package.remove(str(elsewhere))
    for bad in ("Pets", "../pets", "a/b", "", "x..y", "deadbeef", "-x", "a" * 65):
        with pytest.raises(ConfigError):
            save(toy(), bad, ORIGIN, CARD)


def test_pictures_are_made_with_the_final_address(home: Path) -> None:
    def pictures(model: Model) -> dict[str, bytes]:
        found = model.sample(n=3)
        return {"samples.png": png.encode(found.grid(), found.recipe), "classes/0.png": png.encode(found.images[0])}

    ref = save(toy(), "pets", ORIGIN, CARD, pictures=pictures)
    recipe = png.read_recipe((ref.path / "samples.png").read_bytes())
    assert recipe is not None and recipe["model"] == "pets@1"
    assert recipe["hash"] == package.read_manifest(ref.path).hash
    assert png.read_recipe((ref.path / "classes" / "0.png").read_bytes()) is None


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow over `size` bytes: a real write fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("what", ["weights", "card", "picture", "manifest"])
def test_a_full_disk_leaves_nothing(saved: package.PackageRef, home: Path, what: str) -> None:
    big = "x" * 50_000
    size = 100 if what == "weights" else 20_000
    card = {"about": big} if what == "card" else CARD
    origin = ORIGIN.model_copy(update={"preset": big}) if what == "manifest" else ORIGIN
    pictures = (lambda model: {"classes/0.png": big.encode()}) if what == "picture" else None
    for name in ("pets", "new"):
        with largest_file(size), pytest.raises(StorageError, match="over the size limit"):
            save(toy(seed=1), name, origin, card, pictures=pictures)
    assert [p.name for p in (home / "models").iterdir()] == ["pets"]
    assert [p.name for p in (home / "models" / "pets").iterdir()] == ["1"]
    assert load("pets").ref == "pets@1"


def rewrite(ref: package.PackageRef, **changes: Any) -> None:
    """Change a manifest and give it the hash of its new content, as someone who forges one would."""
    found = json.loads((ref.path / "model.json").read_text())
    found.update(changes)
    found["hash"] = package.content_hash(found)
    (ref.path / "model.json").write_text(json.dumps(found))


def swap(ref: package.PackageRef, content: bytes, **part: Any) -> None:
    """Replace the weights, with a part record that fits them unless `part` says otherwise."""
    (ref.path / "generator.safetensors").write_bytes(content)
    old = package.read_manifest(ref.path).parts["generator"].model_dump()
    fits = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(ref, parts={"generator": {**old, **fits, **part}})


def weights(ref: package.PackageRef) -> dict[str, torch.Tensor]:
    return dict(load_tensors((ref.path / "generator.safetensors").read_bytes()))


def test_changed_weights_and_manifest_are_noticed(saved: package.PackageRef) -> None:
    path = saved.path / "generator.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="sha256"):
        load("pets")
    path.write_bytes(bytes(content) + b"x")
    with pytest.raises(IntegrityError, match=r"model\.json says"):
        load("pets")
    path.unlink()
    with pytest.raises(IntegrityError, match="no generator"):
        load("pets")
    text = (saved.path / "model.json").read_text()
    (saved.path / "model.json").write_text(text.replace('"width": 4', '"width": 5'))
    with pytest.raises(IntegrityError, match="changed after"):
        load("pets")
    (saved.path / "model.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(IntegrityError, match="format 99"):
        load("pets")


def missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["last.bias"]


def extra(tensors: dict[str, torch.Tensor]) -> None:
    tensors["more"] = torch.zeros(1)


def reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["last.bias"] = tensors["last.bias"].view(8, 8)


def retyped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["last.bias"] = tensors["last.bias"].to(torch.bfloat16)


@pytest.mark.parametrize("change", [missing, extra, reshaped, retyped])
def test_weights_must_fit_the_architecture(
    saved: package.PackageRef, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    tensors = weights(saved)
    change(tensors)
    swap(saved, save_tensors(tensors), parameters=sum(t.numel() for t in tensors.values()))
    with pytest.raises(IntegrityError, match="do not fit tiny"):
        load("pets")


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8 + b"{}",  # a header of 2**64 bytes
        (2**20 + 1).to_bytes(8, "little") + b" " * (2**20 + 1),  # over the cap
        header({"a": {**F32, "shape": [2**40, 2**40]}}, b"\0" * 8),
        header({"a": {**F32, "shape": [-2, -1]}}, b"\0" * 8),
        header({"a": {**F32, "shape": [2.0]}}, b"\0" * 8),
        header({"a": {**F32, "shape": [True]}}, b"\0" * 4),
        header({"a": {**F32, "dtype": "PICKLE"}}, b"\0" * 8),
        header({"a": {**F32, "data_offsets": [0, 4]}}, b"\0" * 8),
        header({"a": F32, "b": F32}, b"\0" * 8),  # overlap
        header({"a": {**F32, "data_offsets": [8, 16]}}, b"\0" * 16),  # gap
        header({"a": F32}, b"\0" * 12),  # data that no tensor owns
        header({"a": [1, 2]}),
        header({"a": {}}),
        (2).to_bytes(8, "little") + b"[]",
        (40000).to_bytes(8, "little") + b"[" * 40000,
        (3).to_bytes(8, "little") + b"\xff\xfe{",
        b"\x80\x04\x95" + b"\0" * 30,  # a pickle
    ],
)
def test_hostile_headers_are_refused(saved: package.PackageRef, content: bytes) -> None:
    swap(saved, content, parameters=2)
    with pytest.raises(IntegrityError):
        load("pets")


def test_caps_are_checked_before_anything_is_read(saved: package.PackageRef) -> None:
    part = package.read_manifest(saved.path).parts["generator"].model_dump()
    rewrite(saved, parts={"generator": {**part, "parameters": package.MAX_PARAMETERS + 1}})
    with pytest.raises(IntegrityError, match="parameters"):
        load("pets")
    half = {**part, "bytes": package.MAX_BYTES}
    rewrite(saved, parts={"generator": half, "other": {**half, "file": "other.safetensors"}})
    with pytest.raises(IntegrityError, match="at most"):
        load("pets")
    # A huge network is only shapes on the meta device: refused by its weights, without allocating them.
    rewrite(saved, parts={"generator": part}, spec={**SPEC.model_dump(mode="json"), "height": 4096, "width": 4096})
    with pytest.raises(IntegrityError, match="do not fit"):
        load("pets")
    rewrite(saved, spec=SPEC.model_dump(mode="json"), config={"width": 0})
    with pytest.raises(IntegrityError, match="width"):
        load("pets")
    (saved.path / "model.json").write_text(" " * (package.MAX_JSON + 1))
    with pytest.raises(IntegrityError, match="at most"):
        package.read_manifest(saved.path)


def hostile_names() -> list[str]:
    """200 names that must never be opened: traversal, links out, devices, streams, pickles, encodings."""
    roots = [
        "../x",
        "/etc/passwd",
        "..\\x",
        "a/../../x",
        "./x",
        "C:\\x",
        "\\\\host\\x",
        "~/x",
        "x/",
        "",
        ".",
        "..",
        "...",
        "x\0",
        "x\n",
        " x",
        "x ",
        "x.pkl",
        "x.pt",
        "x.bin",
        "x.safetensors.pkl",
        "x\t",
        "x:y",
        "%2e%2e/x",
        "x\u202e",
        "ｘ",
        "..%c0%af",
        "file:///x",
        "http://h/x",
        "$(x)",
        "`x`",
        "x;y",
        "x|y",
        "*",
        "?",
        "-x",
        "_x",
        ".x",
        "х",
    ]
    suffixes = ["", ".safetensors", "/y.safetensors", "\0.safetensors", "\n.safetensors", "..safetensors"]
    names = [root + suffix for root in roots for suffix in suffixes]
    return [n for n in names if n != "..safetensors"][:200]


def test_a_card_has_a_cards_shape(saved: package.PackageRef) -> None:
    for card in ("[]", '{"metrics": 3}', '{"metrics": {"fd": {"value": "x"}}}', '{"per_class": [{}]}', "[" * 9000, "{"):
        (saved.path / "card.json").write_text(card)
        with pytest.raises(IntegrityError, match=r"card\.json"):
            package.read_card(saved.path)
    with pytest.raises(NotFoundError):
        package.find("x" * 5000)


def test_file_names_stay_inside(saved: package.PackageRef) -> None:
    part = package.read_manifest(saved.path).parts["generator"].model_dump()
    names = hostile_names()
    assert len(names) == 200
    for name in names:
        rewrite(saved, parts={"generator": {**part, "file": name}})
        with pytest.raises(IntegrityError):
            package.read_manifest(saved.path)
        with pytest.raises(IntegrityError):
            package.read_file(saved.path, name, 100)


@pytest.mark.parametrize("file", ["model.json", "card.json", "generator.safetensors"])
def test_links_and_pipes_are_refused(saved: package.PackageRef, file: str, tmp_path: Path) -> None:
    (saved.path / file).rename(tmp_path / file)
    (saved.path / file).symlink_to(tmp_path / file)
    with pytest.raises(IntegrityError, match="link"):
        load(saved)
    (saved.path / file).unlink()
    os.mkfifo(saved.path / file)
    with pytest.raises(IntegrityError, match="regular"):
        load(saved)


def test_a_buffer_without_values_is_named(home: Path) -> None:
    save(toy("forgetful"), "forgetful", ORIGIN, CARD)
    with pytest.raises(IntegrityError, match=r"generator\.table"):
        load("forgetful")


def test_reading_packages_needs_no_torch(saved: package.PackageRef) -> None:
    code = (
        "import sys, kartina.models.package as p, kartina.models.png, kartina.models.samples\n"
        "ref = p.find('pets'); p.read_manifest(ref.path); p.read_card(ref.path)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# -- samples -----------------------------------------------------------------------------------------------------------


def test_saving_samples(saved: package.PackageRef, tmp_path: Path) -> None:
    found = load("pets").sample(n=6, seed=7)
    grid = found.save(tmp_path / "grid.png")
    with Image.open(grid) as image:
        assert image.size == (2 * (64 + 2) + 2, 3 * (64 + 2) + 2)  # three classes, two each, enlarged eightfold
        assert image.text["synthetic"] == "true"  # type: ignore[attr-defined]
    recipe = png.read_recipe(grid.read_bytes())
    assert recipe is not None and recipe["seeds"] == [7, 8, 9, 10, 11, 12]

    files = sorted(found.save(tmp_path / "out" / "folder").iterdir())
    names = [p.name for p in files]
    assert names[:3] == ["000-cat-seed7.png", "001-dog-wolf-seed8.png", "002-image-seed9.png"]
    assert len(names) == 6
    recipe = png.read_recipe(files[1].read_bytes())
    assert recipe is not None
    assert (recipe["model"], recipe["label"], recipe["seed"]) == ("pets@1", "dog/wolf", 8)
    assert recipe["hash"] == package.read_manifest(saved.path).hash and recipe["controls"] == {"strength": 0.5}
    # The recipe makes the image again.
    again = load(recipe["hash"]).sample([recipe["label"]], n=1, seed=recipe["seed"], **recipe["controls"])
    with Image.open(files[1]) as image:
        assert np.abs(np.asarray(image).astype(int) - again.images[0, 0]).max() <= 1
    with pytest.raises(ConfigError, match=r"\.png"):
        found.save(tmp_path / "grid.jpg")


def test_a_full_disk_keeps_no_samples(saved: package.PackageRef, tmp_path: Path) -> None:
    found = load("pets").sample(n=4)
    with largest_file(50), pytest.raises(StorageError):
        found.save(tmp_path / "folder")
    with largest_file(50), pytest.raises(StorageError):
        found.save(tmp_path / "grid.png")
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_every_pixel(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 7)).astype(np.uint8)
    content = png.encode(pixels, {"label": "кот"})
    assert png.read_recipe(content) == {"label": "кот"}
    with Image.open(io.BytesIO(content)) as image:
        back = np.asarray(image)
    assert (back.reshape(5, 7, channels).transpose(2, 0, 1) == pixels).all()


def test_png_refusals() -> None:
    with pytest.raises(DataError):
        png.read_recipe(b"not a png")
    with pytest.raises(DataError):
        png.grid([])
    with pytest.raises(DataError):
        png.to_pil(np.zeros((5, 4, 4), np.uint8))
