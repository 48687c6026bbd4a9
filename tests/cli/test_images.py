"""`kartina translate | invert` as a user runs them: from pairs on disk to pictures, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kartina import registry
from kartina.config import FamilyConfig
from kartina.data.prepare import import_path
from kartina.errors import DataError
from kartina.generators.base import Capability, Family, Output, Row, State, build, to_uint8
from kartina.handlers.train import train
from kartina.models import png
from kartina.models.model import load, save
from kartina.models.package import find
from kartina.training.run import Run
from tests import tiny
from tests.engine import CARD, PROVENANCE
from tests.models.test_inputs import BAD
from tests.pictures import pixels
from tests.pictures import save as save_picture

SMALL = {"width": 8, "width_max": 8, "threads": 1, "batch": 4, "lr": 4e-3, "grids": 2, "ema": 0}
RUN = "1"


def negative_pairs(root: Path, n: int = 48, size: int = 32) -> Path:
    """train/A and train/B: a colour picture, and its grey negative."""
    for i in range(n):
        array = pixels(i, size)
        grey = 255 - np.asarray(Image.fromarray(array).convert("L"))
        for half, image in (("A", array), ("B", grey)):
            path = root / "train" / half / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where pix2pix has learnt negatives for a moment."""
    root = tmp_path_factory.mktemp("pix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARTINA_HOME", str(root / "home"))
        import_path(negative_pairs(root / "pairs"), "negatives")
        train("pix2pix-32-cpu", "negatives", images=400, **SMALL)
    return root


@pytest.fixture
def trained(homes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KARTINA_HOME", str(homes / "home"))
    return homes


def grey(i: int, size: int = 32) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels(i, size)).convert("L")).astype(int)


def test_one_image_becomes_one_image_with_its_recipe(cli, trained: Path, tmp_path: Path) -> None:
    source = save_picture(tmp_path / "in.png", 100, 32)
    done = cli("translate", RUN, source, "--seed", 5, "-o", tmp_path / "out.png")
    assert done.code == 0 and "Wrote 1 image to" in done.out and done.err == ""
    image = Image.open(tmp_path / "out.png")
    assert image.size == (32, 32) and image.mode == "L"
    made = np.asarray(image).astype(int)
    assert np.abs(made - (255 - grey(100))).mean() < np.abs(made - grey(100)).mean() / 2, "a negative, about"
    recipe = png.read_recipe((tmp_path / "out.png").read_bytes())
    assert recipe is not None and recipe["task"] == "translate" and recipe["seed"] == 5
    assert recipe["controls"] == {"dropout": True} and len(recipe["image"]) == 64
    assert image.text["synthetic"] == "true"  # type: ignore[attr-defined]


def test_same_seed_same_bytes_and_dropout_can_be_off(cli, trained: Path, tmp_path: Path) -> None:
    source = save_picture(tmp_path / "in.png", 101, 32)
    for out, *more in (
        ("a", "--seed", 3), ("b", "--seed", 3), ("c", "--seed", 4),
        ("d", "--seed", 3, "--set", "dropout=false"), ("e", "--seed", 4, "--set", "dropout=false"),
    ):  # fmt: skip
        assert cli("translate", RUN, source, "-o", tmp_path / f"{out}.png", *more).code == 0
    a, b, c, d, e = (Image.open(tmp_path / f"{k}.png").tobytes() for k in "abcde")
    assert a == b != c and d == e != a


def test_a_folder_goes_to_a_folder_or_a_grid_and_notes_are_told(cli, trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for i in range(7):
        save_picture(source / f"shot {i}.jpg", 110 + i, (40, 60))
    done = cli("translate", RUN, source, "-o", tmp_path / "out")
    assert done.code == 0 and "Wrote 7 images" in done.out
    assert "shot 0: 60x40 cut to its middle 40x40 and scaled to 32x32" in done.err and "and 2 more inputs" in done.err
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names[0] == "000-shot-0-seed0.png" and names[6] == "006-shot-6-seed6.png" and len(names) == 7
    asked = cli("translate", RUN, source, "-n", 14, "--fit", "pad", "-o", tmp_path / "grid.png", "--json")
    told = asked.json
    assert asked.err == "" and (told["n"], told["task"], told["labels"]) == (14, "translate", [None] * 14)
    assert [i["name"] for i in told["inputs"]] == [f"shot {i}" for i in range(7)]
    assert "padded to 32x32" in told["inputs"][0]["note"] and told["seeds"] == list(range(14))
    zoom = 2
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (3 * (32 * zoom + 2) + 2, 7 * (32 * zoom + 2) + 2), "input and two versions, a row each"
        assert grid.mode == "RGB", "grey outputs stand beside colour inputs"


def test_training_grids_show_input_output_truth(trained: Path) -> None:
    run = Run.open(RUN)
    grids = sorted((run.path / "grids").glob("*.png"))
    assert len(grids) == 2
    sheet = np.asarray(Image.open(grids[-1]))
    val = run.data().part("val")
    assert sheet.shape == (len(val) * 34 + 2, 3 * 34 + 2, 3) and len(val) == 5
    first = sheet[2:34, 2:34], sheet[2:34, 36:68], sheet[2:34, 70:102]
    assert (first[0] == val.sources[0].transpose(1, 2, 0)).all()
    assert (first[2] == val.images[0].transpose(1, 2, 0)).all()
    assert first[1].std() > 5 and not (first[1] == first[2]).all()


def test_published_it_translates_alike_and_tells_what_it_can(cli, trained: Path, tmp_path: Path) -> None:
    source = save_picture(tmp_path / "in.png", 102, 32)
    published = cli("publish", RUN, "--name", "negatives", "--json")
    assert published.code == 0 and published.json["card"]["metrics"] == {}
    path = Path(published.json["path"])
    manifest = json.loads((path / "model.json").read_text())
    assert list(manifest["tasks"]) == ["translate"] and manifest["tasks"]["translate"]["inputs"] == ["image"]
    assert manifest["spec"]["source_channels"] == 3 and manifest["spec"]["channels"] == 1
    val = Run.open(RUN).data().part("val")
    sheet = np.asarray(Image.open(path / "samples.png"))
    assert sheet.shape == (2 * 66 + 2, 8 * 66 + 2, 3), "input and output, four pairs a row"
    assert (sheet[2:66:2, 2:66:2] == val.sources[0].transpose(1, 2, 0)).all()

    still = cli("publish", RUN, "--name", "still", "--set", "dropout=false", "--json")
    assert still.code == 0 and load("still").controls("translate").model_dump()["dropout"] is False

    model, run = load("negatives"), cli("translate", RUN, source, "-o", tmp_path / "run.png")
    assert run.code == 0
    made = model.translate(source).images
    theirs = np.asarray(Image.open(tmp_path / "run.png"))[None, None]
    assert np.abs(made.astype(int) - theirs).max() <= 2  # weights in half precision
    several = model.translate([source, pixels(7, 32), Image.fromarray(pixels(8, 32))], n=5, seed=9)
    assert several.images.shape == (5, 1, 32, 32) and several.seeds == (9, 10, 11, 12, 13)
    assert several.recipe_of(3)["image"] == several.recipe_of(0)["image"] != several.recipe_of(1)["image"]
    assert model.translate(source, seed=1, dropout=False).recipe["controls"] == {"dropout": False}

    for words in (("sample", "negatives"), ("invert", "negatives", source), ("evaluate", "negatives")):
        found = cli(*words)
        assert found.code == 2 and "there are: translate" in found.err and "negatives@1" in found.err


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_one_sentence_and_code_2(cli, trained: Path, tmp_path: Path, name: str) -> None:
    content, says = BAD[name]
    (tmp_path / name).write_bytes(content)
    found = cli("translate", RUN, tmp_path / name, "-o", tmp_path / "out.png")
    assert found.code == 2 and says in found.err and found.err.count("\n") == 1 and found.out == ""
    assert not (tmp_path / "out.png").exists()


def test_other_bad_requests_are_one_sentence_and_code_2(cli, trained: Path, tmp_path: Path) -> None:
    fine = save_picture(tmp_path / "in.png", 1, 32)
    (tmp_path / "none").mkdir()
    for words, says in (
        (["translate", RUN, tmp_path / "missing.png"], "no such file"),
        (["translate", RUN, tmp_path / "none"], "no JPEG, PNG or WebP image in the folder"),
        (["translate", "nothing", fine], "no model or run called 'nothing'"),
        (["translate", RUN, fine, "--set", "dropout=maybe"], "dropout"),
        (["translate", RUN, fine, "--set", "droput=true"], "droput: no such key"),
        (["translate", RUN, fine, "--class", "cat"], "no class called 'cat'"),
        (["translate", RUN, fine, "-o", tmp_path / "out.jpg"], "expected a name ending in .png"),
        (["invert", RUN, fine], "no task called 'invert'; there are: translate"),
    ):
        out = [] if "-o" in words else ["-o", tmp_path / "out.png"]
        found = cli(*words, *out)
        assert found.code == 2 and says in found.err and found.out == "", words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", "none"]


def test_pix2pix_refuses_data_without_pairs(cli, home: Path) -> None:
    tiny.store(tiny.images(shape=tiny.spec(32)), home)
    found = cli("train", "pix2pix-32-cpu", "--data", "blobs", "--images", 8)
    assert found.code == 2 and "without pairs" in found.err and "SPLIT/A" in found.err


# -- invert ------------------------------------------------------------------------------------------------------------


class Mirror(Family):
    """Inverts an image to its mean: the picture is plain, w is the mean and the class."""

    Config: ClassVar[Any] = FamilyConfig

    def __init__(self, config: Any, spec: Any):
        super().__init__(config, spec)
        self.generator = nn.Linear(1, 1)

    def capabilities(self) -> dict[str, Capability]:
        return {"generate": Capability(), "invert": Capability(("image",))}

    def start(self, rows: Sequence[Row]) -> State:
        mean = self.inputs(rows).mean(dim=(1, 2, 3))
        ready = torch.zeros(len(rows), dtype=torch.int64)
        return State({"w": torch.cat([mean[:, None], self.weights(rows)], 1), "step": ready, "steps": ready + 1})

    def step(self, state: State) -> State:
        return state.replace(step=state["steps"])

    def finish(self, state: State) -> Output:
        flat = state["w"][:, :1, None, None].expand(-1, *self.spec.shape)
        return Output(to_uint8(flat), {"w": state["w"].cpu()})


def test_invert_gives_the_picture_and_where_it_lies(cli, home: Path, tmp_path: Path) -> None:
    registry.register("mirror")(Mirror)
    try:
        save(build(Mirror, {}, tiny.spec(16, 3, 3)), "mirror", PROVENANCE, CARD)
        source = save_picture(tmp_path / "in.png", 4)
        done = cli("invert", "mirror", source, "--class", "b", "-o", tmp_path / "out.png")
        assert done.code == 0
        mean = round(pixels(4).mean())
        assert abs(np.asarray(Image.open(tmp_path / "out.png")).astype(int) - mean).max() <= 1
        found = load("mirror").invert(source, ["b"])
        assert found.extras["w"].shape == (1, 4) and found.extras["w"][0, 2] == 1
        assert found.extras["w"][0, 0] == pytest.approx(pixels(4).mean() / 127.5 - 1, abs=1e-5)
        needs = cli("invert", "mirror", source, "-o", tmp_path / "no.png")
        assert needs.code == 2 and "a, b, c. Name it with --class" in needs.err and not (tmp_path / "no.png").exists()
        cannot = cli("translate", "mirror", source)
        assert cannot.code == 2 and "no task called 'translate'; there are: generate, invert" in cannot.err
    finally:
        registry.unregister("mirror")


# -- what denoising families do with images ----------------------------------------------------------------------------


@pytest.fixture
def flow(home: Path) -> Path:
    """Untrained models: `flow` of 16 px, three classes; `up` and `paint`, which start from small and grey images."""
    for name, config in (("flow", {}), ("up", {"source": "upscale"}), ("paint", {"source": "colorize"})):
        save(tiny.sampler("flow", shape=tiny.spec(16, 3), **config), name, PROVENANCE, CARD)
    return home


def test_transform_and_inpaint(cli, flow: Path, tmp_path: Path) -> None:
    a, b = save_picture(tmp_path / "a.png", 1), save_picture(tmp_path / "b.png", 2)
    kept = cli("transform", "flow", a, b, "--class", "b", "--set", "strength=0", "-o", tmp_path / "kept", "--json")
    assert kept.code == 0 and kept.json["n"] == 2 and kept.json["labels"] == ["b", "b"]
    for file, source in (("000-a-b-seed0.png", a), ("001-b-b-seed1.png", b)):
        assert Image.open(tmp_path / "kept" / file).tobytes() == Image.open(source).tobytes()
    other = cli("transform", "flow", a, "--class", "b", "--set", "strength=0.6", "-o", tmp_path / "new.png")
    assert other.code == 0 and Image.open(tmp_path / "new.png").tobytes() != Image.open(a).tobytes()
    assert png.read_recipe((tmp_path / "new.png").read_bytes())["controls"]["strength"] == 0.6

    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 3:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ("inpaint", "flow", a, "--mask", tmp_path / "mask.png", "--class", "c", "-o", tmp_path / "in.png")
    assert cli(*words).code == 0
    made, source = np.asarray(Image.open(tmp_path / "in.png")), np.asarray(Image.open(a))
    assert (made[mask == 0] == source[mask == 0]).all() and (made[mask > 0] != source[mask > 0]).any()
    recipe = png.read_recipe((tmp_path / "in.png").read_bytes())
    assert len(recipe["mask"]) == 64 and recipe["label"] == "c"


def test_every_pair_of_image_and_mask_is_looked_at(flow: Path) -> None:
    square, wide = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)
    model, masks = load(find("flow")), [square, wide, square]
    assert len(model.inpaint([square, wide], masks, ["a"], steps=1)) == 3
    with pytest.raises(DataError, match="mask of 16x16 pixels for an image of 32x16"):
        model.inpaint([square, wide], masks, ["a"], n=4, steps=1)


def test_upscale_colorize_and_interpolate(cli, flow: Path, tmp_path: Path) -> None:
    a = save_picture(tmp_path / "a.png", 1)
    assert cli("upscale", "up", a, "--class", "a", "-o", tmp_path / "up.png").code == 0
    assert np.asarray(Image.open(tmp_path / "up.png")).shape == (16, 16, 3)
    assert cli("colorize", "paint", a, "--class", "a", "-o", tmp_path / "colour.png").code == 0
    assert np.asarray(Image.open(tmp_path / "colour.png")).shape == (16, 16, 3)
    words = ("interpolate", "flow", "--class", "a", "--seed", 3, "--set", "to_seed=7", "--set", "to_class=b")
    for share, seed, label in ((0, 3, "a"), (1, 7, "b")):
        assert cli(*words, "--set", f"share={share}", "-o", tmp_path / "end").code == 0
        assert cli("sample", "flow", "-n", 1, "--seed", seed, "--class", label, "-o", tmp_path / "plain").code == 0
        end, plain = (next((tmp_path / k).glob("*.png")) for k in ("end", "plain"))
        assert Image.open(end).tobytes() == Image.open(plain).tobytes()
        end.unlink(), plain.unlink()
    one = tmp_path / "one.png"
    assert cli(*words[:-1], "to_class=B", "--set", "share=1", "-o", one).code == 0, "whatever its case"
    assert cli("sample", "flow", "-n", 1, "--seed", 7, "--class", "b", "-o", tmp_path / "same.png").code == 0
    with Image.open(one) as way, Image.open(tmp_path / "same.png") as same:
        assert way.size == (16, 16), "the image alone, and no grid of it"
        assert way.tobytes() == same.tobytes()
    both = cli("interpolate", "flow", "--class", "a", "--class", "b", "--set", "to_seed=7", "-o", tmp_path / "both")
    assert both.code == 0 and len(list((tmp_path / "both").glob("*.png"))) == 2, "one for each class"


def test_morph_starts_at_one_image_and_ends_at_the_other(cli, flow: Path, tmp_path: Path) -> None:
    a, b = save_picture(tmp_path / "a.png", 1), save_picture(tmp_path / "b.png", 2)
    words = ("morph", "flow", a, "--to", b, "--class", "a", "--set", "steps=3", "--set", "to_class=b")
    for share, source, label in ((0, a, "a"), (1, b, "b")):
        assert cli(*words, "--set", f"share={share}", "-o", tmp_path / "end.png").code == 0
        assert cli("invert", "flow", source, "--class", label, "--set", "steps=3", "-o", tmp_path / "in.png").code == 0
        end, alone = (np.asarray(Image.open(tmp_path / f"{k}.png")).astype(int) for k in ("end", "in"))
        assert np.abs(end - alone).max() <= 1
    recipe = png.read_recipe((tmp_path / "end.png").read_bytes())
    assert len(recipe["image"]) == len(recipe["to_image"]) == 64 and recipe["image"] != recipe["to_image"]


def test_what_was_done_to_every_input_is_told(cli, flow: Path, tmp_path: Path) -> None:
    a, wide = save_picture(tmp_path / "a.png", 1), save_picture(tmp_path / "wide.png", 2, (16, 40))
    words = ("morph", "flow", a, "--to", wide, "--class", "a", "--set", "steps=2", "-o", tmp_path / "out.png")
    assert cli(*words).err.splitlines() == ["wide: 40x16 cut to its middle 16x16 and scaled to 16x16"]
    told = json.loads(cli(*words, "--json").out)["inputs"]
    assert [(one["kind"], one["name"]) for one in told] == [("image", "a"), ("to_image", "wide")]


def test_no_input_is_written_over(cli, flow: Path, tmp_path: Path) -> None:
    a, b = save_picture(tmp_path / "a.png", 1), save_picture(tmp_path / "b.png", 2)
    before = b.read_bytes()
    for words in (
        ("transform", "flow", b, "--class", "a"),
        ("morph", "flow", a, "--to", b, "--class", "a"),
        ("inpaint", "flow", a, "--mask", b, "--class", "a"),
    ):
        found = cli(*words, "-o", b)
        assert found.code == 2 and "among the inputs; expected another name" in found.err
    assert b.read_bytes() == before


def test_wrong_conditions_are_one_sentence_and_code_2(cli, flow: Path, tmp_path: Path) -> None:
    a = save_picture(tmp_path / "a.png", 1)
    wide = save_picture(tmp_path / "wide.png", 2, (16, 40))
    for words, says in (
        (["transform", "flow", a], "a, b, c. Name it with --class"),
        (["transform", "flow", a, "--class", "a", "--set", "strength=1.5"], "strength"),
        (["inpaint", "flow", a, "--class", "a", "--mask", wide], "mask of 40x16 pixels for an image of 16x16"),
        (["inpaint", "flow", a, "--class", "a", "--mask", tmp_path / "no.png"], "no such file"),
        (["interpolate", "flow", "--class", "a", "--set", "to_class=boot"], "to_class: found no class called 'boot'"),
        (["morph", "flow", a, "--class", "a", "--to", tmp_path / "no.png"], "no such file"),
        (["upscale", "flow", a], "no task called 'upscale'; there are: generate, transform"),
        (["sample", "up"], "no task called 'generate'; there are: upscale"),
    ):
        found = cli(*words, "-o", tmp_path / "out.png")
        assert found.code == 2 and says in found.err and found.out == "", (words, found.err)
        assert found.err.count(says) == 1, "said once"
    assert not (tmp_path / "out.png").exists()
    late = cli("transform", "flow", a, "--class", "boot", "-o", tmp_path / "out.jpg")
    assert "expected a name ending in .png" in late.err, "before anything is drawn"
