"""Few labels: SGAN's classifier beside the same CNN alone, on the same labelled images.

    python -m benchmarks.few_labels --data fashion --images 30k --labels 25,50,100,1000 --seeds 3

Resumable: what stands in results.json for the same settings is not trained again. Every method has the same net, the
same labelled images for a seed, the same number of them in an update, the same updates and the same moving average;
nothing is stopped early and nothing is chosen on test. Writes results.json, README.md and a grid of SGAN's images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

import kartina
from kartina import registry
from kartina.config import RunConfig, TrainConfig
from kartina.data.imageset import ImageSet, open_set
from kartina.generators.base import At, Batch, Loss, Phase, from_uint8, generate, rows_for
from kartina.generators.sgan import SGAN, SGANConfig, labelled_loss
from kartina.models.samples import Samples
from kartina.training import budget
from kartina.training.loop import Trainer, pick_device

PRESET = "sgan-32-cpu"
COLUMNS = 10
SHOWN = (100, 0)  # labels and seed of the grid


@registry.register("sgan-cnn")
class Alone(SGAN):
    """SGAN's classifier without its generator: labelled images alone or, with `information`, unlabelled ones too."""

    parts = ("discriminator",)
    presets: ClassVar = {}

    def __init__(self, config: SGANConfig, spec: Any):
        super().__init__(config, spec)
        del self.generator

    def phases(self) -> list[Phase]:
        return [Phase("D", list(self.discriminator.parameters()), opt="D")]

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        images, labels = self.labelled_batch(batch, at)
        total = labelled_loss(self.discriminator.logits(images), labels)
        if self.config.information:
            total = total + self.information(self.discriminator.logits(batch.images), at)
        return Loss(total)


# Method -> what it is, family, settings over the preset's.
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cnn": ("the CNN alone", "sgan-cnn", {"information": 0, "kernels": 0}),
    "sgan": ("SGAN", "sgan", {}),
    "cnn-information": ("the CNN with the information term, no GAN", "sgan-cnn", {"kernels": 0}),
    "sgan-plain": ("SGAN without the information term", "sgan", {"information": 0}),
}


def run_config(method: str, data: ImageSet, labels: int, seed: int, images: int, device: str) -> RunConfig:
    _, base = registry.preset(PRESET)
    _, family, settings = METHODS[method]
    return RunConfig(
        kartina=kartina.__version__,
        preset=PRESET,
        family=family,
        config={**base.config, **settings, "labels_used": labels},
        train=TrainConfig(**{**base.train, "seed": seed, "threads": torch.get_num_threads()}),
        spec=data.spec,
        data=data.name,
        data_hash=data.hash,
        images=images,
        device=device,
    )


def accuracy(family: SGAN, data: ImageSet) -> float:
    """On test, in eval mode."""
    test = data.part("test")
    parts = [test.images[i : i + 250] for i in range(0, len(test), 250)]
    top = torch.cat([family.classify(tensor(part, family.device)).argmax(1) for part in parts])
    return float((top.cpu().numpy() == test.labels).mean())


def tensor(images: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    return from_uint8(torch.from_numpy(np.array(images)).to(device))


def trained(config: RunConfig, data: ImageSet) -> Trainer:
    trainer = Trainer(config, data)
    while trainer.images < config.images:
        trainer.step()
    return trainer


def draw(family: SGAN, where: Path) -> None:
    """A row a class, seeds in order, nothing chosen."""
    labels = [k for k in range(family.classes) for _ in range(COLUMNS)]
    rows = rows_for(family, labels, len(labels), seed=0)
    made = generate(family, rows).images.numpy()
    Samples(made, np.asarray(labels), family.spec.classes, tuple(r.seed for r in rows), {}).save(where)


def mean(each: list[float]) -> str:
    spread = f" ± {statistics.stdev(each) * 100:.1f}" if len(each) > 1 else ""
    return f"{statistics.fmean(each) * 100:.1f}{spread}"


def page(results: dict[str, Any], given: argparse.Namespace, methods: list[str], counts: list[int]) -> str:
    def each(method: str, n: int) -> list[float]:
        found = [results.get(f"{method}/{n}/{seed}") for seed in range(given.seeds)]
        return [r["accuracy"] for r in found if r and r["settings"]["images"] == budget.images(given.images)]

    lines = [
        f"# {given.data} with few labels",
        "",
        f"Accuracy in % on the whole test split: mean and standard deviation over {given.seeds} seeds, each with its",
        f"own stratified choice of labelled images, which all methods share. {given.images} images a training, batch",
        f"{registry.preset(PRESET)[1].train['batch']}, no early stopping; the moving average is measured. All have the",
        "net of SGAN's discriminator. Shifts, flips, dropout and the learning rate were tried for the CNN alone, the",
        "weights of the losses for SGAN, both on val (docs/LOG.md).",
        "",
        "| labels | " + " | ".join(METHODS[m][0] for m in methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for n in counts:
        cells = [mean(found) if (found := each(m, n)) else "" for m in methods]
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Repeat it with",
        "",
        f"    python -m benchmarks.few_labels --data {given.data} --images {given.images} --labels {given.labels} "
        f"--seeds {given.seeds} --methods {given.methods} --out {given.out.as_posix()}",
    ]
    if (given.out / "sgan.png").is_file():
        about = f"SGAN's images from {SHOWN[0]} labels, seed {SHOWN[1]}: a row a class, seeds in order, nothing chosen."
        lines += ["", about, "", "![samples](sgan.png)"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="fashion")
    parser.add_argument("--images", default="30k", help="unlabelled images seen by each training")
    parser.add_argument("--labels", default="25,50,100,1000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("docs/results/few-labels"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = open_set(given.data)
    images, counts = budget.images(given.images), [int(n) for n in given.labels.split(",")]
    methods = given.methods.split(",")
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for seed in range(given.seeds):
        for n in counts:
            for method in methods:
                key = f"{method}/{n}/{seed}"
                config = run_config(method, data, n, seed, images, pick_device(given.device))
                settings = json.loads(
                    config.model_dump_json(include={"family", "config", "train", "images", "data_hash"})
                )
                if results.get(key, {}).get("settings") == settings:
                    continue
                trainer = trained(config, data)
                assert isinstance(trainer.ema, SGAN)
                results[key] = {"accuracy": accuracy(trainer.ema, data), "settings": settings}
                print(key, f"{results[key]['accuracy']:.4f}", flush=True)
                if method == "sgan" and (n, seed) == SHOWN:
                    settled = trainer.settled()
                    assert isinstance(settled, SGAN)
                    draw(settled, given.out / "sgan.png")
                file.write_text(json.dumps(results, indent=1))
                (given.out / "README.md").write_text(page(results, given, methods, counts))
    (given.out / "README.md").write_text(page(results, given, methods, counts))
    print(page(results, given, methods, counts))


if __name__ == "__main__":
    main()
