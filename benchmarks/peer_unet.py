"""A plain U-Net beside ours: diffusers' UNet2DModel, used as one usually does, on the same flow matching.

    python -m benchmarks.peer_unet speed --out docs/results/peer-unet [--channels 1 3] [--quick]
    python -m benchmarks.peer_unet curve --data fashion --device cuda --out docs/results/peer-unet \\
        flow-32-cpu:15k flow-32-cpu:60k plain-unet-32:240k

The peer (`plain-unet-32`) has three levels from the full resolution on, one residual block a level, attention at 16 px,
no folding stem, and as many parameters as `flow-32-cpu` within 5%. It states the velocity, learns from uniform times
by Adam at a constant 2e-4, and keeps a moving average. `plain-unet-32-tuned` is the same network and loss with our
training settings (Muon, warm-up, decay): what is left between it and ours is the network and what it states. Labels,
their dropout, the batch, the half-life of the average, the solver and its guidance are alike in all.

`speed` times them on this machine's CPU in one run, rounds interleaved, medians kept: training steps and sampling, with
FLOPs by torch's counter and as a share of the ceiling. `curve` trains each PRESET for so many IMAGES, pauses at shares
of them and measures FD-domain on val; it may run on a GPU: an image teaches there what it teaches here. Seconds are
images times the CPU's seconds an image, from `speed`. The page has FD-domain against both, and the ratio of the costs
at equal FD-domain. Needs `pip install kartina[peers]`. Resumable: what stands in curve/ is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.curve import SHARES
from benchmarks.families import go_on, machine, prepared
from benchmarks.training import ceiling, trainer
from kartina import registry
from kartina.config import Preset, TrainConfig
from kartina.data.imageset import open_set
from kartina.generators.base import Adam, build, generate, rows_for
from kartina.generators.diffusive import CPU, WIDE
from kartina.generators.flow import Flow, FlowConfig
from kartina.handlers.evaluate import evaluate_model
from kartina.handlers.load import load_any
from kartina.metrics.classifier import domain_classifier
from kartina.nets.precision import Precision, pick
from kartina.training import budget as budgets
from kartina.training.loop import Trainer, cores, pick_device
from kartina.training.run import Run

OURS, PEER = "flow-32-cpu", "plain-unet-32"
TUNED = f"{PEER}-tuned"
ROUNDS = 5
STEPS = 6  # of training in a round
BATCH = 16  # of sampling
EARLIEST = 1e-3  # time: below it the velocity is not to be told from rounding
AIM = 4.0  # times cheaper at equal FD-domain


# -- the peer ----------------------------------------------------------------------------------------------------------


class PlainNet(nn.Module):
    """diffusers' UNet2DModel, called as our families call a network: x N,C,H,W, t N in [0, 1], label weights N,K+1."""

    def __init__(self, config: FlowConfig, channels: int, size: int, labels: int):
        super().__init__()
        from diffusers import UNet2DModel

        def kinds(side: str) -> tuple[str, ...]:
            return tuple(f"{'Attn' * (i in config.attention)}{side}Block2D" for i in range(len(config.widths)))

        self.net = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(config.widths),
            layers_per_block=config.blocks,
            down_block_types=kinds("Down"),
            up_block_types=kinds("Up")[::-1],
            num_class_embeds=labels,
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The velocity at x: N,C,H,W."""
        out: Tensor = self.net(x, 1000 * t, class_labels=y.argmax(dim=1)).sample
        return out


class PlainConfig(FlowConfig):
    widths: tuple[int, ...] = (64, 96, 128)
    blocks: int = 1
    attention: tuple[int, ...] = (1,)


class PlainFlow(Flow):
    """Flow matching in its plain form: uniform times, |v_theta - v|^2, D = x - t v_theta."""

    Config = PlainConfig
    config: PlainConfig
    presets: ClassVar = {
        PEER: Preset(32, "diffusers' U-Net, plainly trained", {}, dict(batch=32, lr=2e-4, ema=5000, clip=1.0)),
        TUNED: Preset(32, "diffusers' U-Net with our training settings", {}, CPU),
    }

    def network(self) -> nn.Module:
        return PlainNet(self.config, self.spec.channels, self.spec.height, self.classes + 1)

    def optimiser(self, opt: str, train: TrainConfig) -> Adam:
        return Adam()

    def level(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(z).clamp(min=EARLIEST)

    def weight(self, t: Tensor) -> Tensor:
        return t**-2

    def denoise(
        self, x: Tensor, t: Tensor, y: Tensor, net: nn.Module | None = None, source: Tensor | None = None
    ) -> Tensor:
        return x - t[WIDE] * self.stated(x, t, y, net, source)


def register_peer() -> None:
    """Make the peer's presets known: when they are asked for, so that nothing else in the process meets them."""
    if "plain_unet" not in registry.names():
        registry.register("plain_unet")(PlainFlow)


# -- speed -------------------------------------------------------------------------------------------------------------


def counted(work: Callable[[], Any]) -> int:
    """FLOPs of `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    found: int = counter.get_total_flops()
    return found


class Timed:
    """A preset that trains and samples on noise, with the FLOPs of both an image."""

    def __init__(self, preset: str, channels: int, precision: Precision, threads: int):
        self.trainer: Trainer = trainer(preset, channels, precision=precision, threads=threads)
        config, spec = self.trainer.config, self.trainer.config.spec
        self.sampler = build(registry.family(config.family), config.config, spec).sampler()
        self.parameters = sum(p.numel() for p in self.sampler.generator.parameters())
        self.flops = counted(self.trainer.step) / self.trainer.images_per_step
        self.sampling_flops = counted(lambda: self.sample(1))
        self.training: list[float] = []  # img/s, a round each
        self.sampling: list[float] = []

    def sample(self, n: int) -> None:
        generate(self.sampler, rows_for(self.sampler, range(self.sampler.classes), n, seed=0), n)

    def round(self, steps: int, batch: int) -> None:
        begun = time.perf_counter()
        for _ in range(steps):
            self.trainer.step()
        self.training.append(steps * self.trainer.images_per_step / (time.perf_counter() - begun))
        begun = time.perf_counter()
        self.sample(batch)
        self.sampling.append(batch / (time.perf_counter() - begun))

    def found(self, training_top: float, sampling_top: float) -> dict[str, float]:
        train, sample = statistics.median(self.training), statistics.median(self.sampling)
        return {
            "parameters": self.parameters,
            "img/s": train,
            "MFLOP/img": self.flops / 1e6,
            "share": train * self.flops / 1e9 / training_top,
            "sampling img/s": sample,
            "sampling MFLOP/img": self.sampling_flops / 1e6,
            "sampling share": sample * self.sampling_flops / 1e9 / sampling_top,
        }


def speed(
    channels: Sequence[int], precision: Precision, threads: int, rounds: int, steps: int, batch: int
) -> dict[str, Any]:
    """Ours and the peers in the same rounds, for images of each number of channels; sampling is in fp32, as served."""
    torch.set_num_threads(threads or cores())
    kinds: tuple[Precision, ...] = (precision, "fp32")
    rows: dict[str, dict[str, Any]] = {}
    tops: dict[str, list[float]] = {kind: [] for kind in kinds}
    for c in channels:
        timed = {name: Timed(name, c, precision, threads) for name in (OURS, PEER, TUNED)}
        for i in range(rounds):
            for kind in tops:
                tops[kind].append(ceiling(precision=kind))
            for name in list(timed)[:: 1 if i % 2 else -1]:  # none is always the first
                timed[name].round(steps, batch)
        train_top, sample_top = (statistics.median(tops[kind]) for kind in kinds)
        rows[str(c)] = {name: t.found(train_top, sample_top) for name, t in timed.items()}
    usual = Flow.controls()
    about = {"machine": machine(), "threads": torch.get_num_threads(), "precision": precision, "rounds": rounds,
             "sampler": f"{usual.steps} steps of {usual.solver} with guidance {usual.guidance:g}"}  # fmt: skip
    return {**about, "ceiling": {kind: statistics.median(each) for kind, each in tops.items()}, "channels": rows}


def speed_table(found: dict[str, Any]) -> list[str]:
    tops = ", ".join(f"{top:.0f} GFLOP/s in {kind}" for kind, top in found["ceiling"].items())
    lines = [
        f"Medians of {found['rounds']} interleaved rounds on {found['threads']} threads, {found['machine']};",
        f"training in {found['precision']}, batch 32, sampling in fp32, batch {BATCH}, by {found['sampler']}.",
        f"Ceiling: {tops}.",
        "",
        "| channels | preset | parameters | training img/s | MFLOP/img | of ceiling "
        "| sampling img/s | MFLOP/img | of ceiling |",
        "|---" * 9 + "|",
    ]
    for c, rows in found["channels"].items():
        for name, r in rows.items():
            lines.append(
                f"| {c} | {name} | {r['parameters'] / 1e6:.2f}M | {r['img/s']:.1f} | {r['MFLOP/img']:,.0f} "
                f"| {r['share']:.0%} | {r['sampling img/s']:.2f} | {r['sampling MFLOP/img']:,.0f} "
                f"| {r['sampling share']:.0%} |"
            )
        size, train, sample = (rows[OURS][k] / rows[PEER][k] for k in ("parameters", "img/s", "sampling img/s"))
        lines.append(f"| {c} | *ours over {PEER}* | {size:.2f} | {train:.2f} times | | | {sample:.2f} times | | |")
    return lines


# -- quality -----------------------------------------------------------------------------------------------------------

Points = list[tuple[float, float]]  # images (or seconds) and FD-domain, by images


def frontier(points: Points) -> Points:
    """Those that no cheaper point is as good as, by cost: falling FD-domain."""
    best: Points = []
    for cost, fd in sorted(points):
        if not best or fd < best[-1][1]:
            best.append((cost, fd))
    return best


def needed(points: Points, fd: float) -> float | None:
    """Images (or seconds) at which a curve reaches `fd`: between points of its frontier along a line in logarithms of
    both. None where it does not."""
    best = frontier(points)
    for i, (cost, value) in enumerate(best):
        if value <= fd:
            if i == 0:
                return cost
            before, above = best[i - 1]
            share = (math.log(above) - math.log(fd)) / (math.log(above) - math.log(value))
            return math.exp(math.log(before) + share * (math.log(cost) - math.log(before)))
    return None


def points(results: dict[str, Any], preset: str, per_image: float = 1.0) -> Points:
    """Of all the budgets of a preset, FD-domain averaged over training seeds."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for arm, seeds in results.items():
        for shares in seeds.values():
            for share, row in shares.items():
                if arm.split(":")[0] == preset:
                    found.setdefault((arm, share), []).append(row)
    return sorted(
        (rows[0]["images"] * per_image, statistics.fmean(r["metrics"]["fd"]["value"] for r in rows))
        for rows in found.values()
    )


def presets_of(results: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(arm.split(":")[0] for arm in results))


def seconds_per_image(found: dict[str, Any], channels: int) -> dict[str, float]:
    """CPU seconds that each preset's training takes for an image."""
    return {name: 1 / row["img/s"] for name, row in found["channels"][str(channels)].items()}


def ratios(ours: Points, peer: Points) -> list[tuple[float, float, float, bool]]:
    """(FD-domain, cost of ours, cost of the peer, reached) at each value that the peer passed and ours reached; and at
    the best of ours where the peer did not get there: what it had spent by then, `reached` false."""
    found = [(fd, mine, cost, True) for cost, fd in frontier(peer) if (mine := needed(ours, fd)) is not None]
    best = min(fd for _, fd in ours)
    if needed(peer, best) is None:
        found.append((best, needed(ours, best) or math.nan, max(cost for cost, _ in peer), False))
    return found


def curve_table(results: dict[str, Any], per_image: dict[str, float]) -> list[str]:
    """FD-domain against images and seconds, then what it costs to be as good."""
    lines = ["| preset, images of its budget | images | CPU seconds | FD-domain |", "|---|---|---|---|"]
    for arm, seeds in results.items():
        preset, total = arm.split(":")
        for share in [f"{s:.0%}" for s in SHARES]:
            rows = [shares[share] for shares in seeds.values() if share in shares]
            if rows:
                values = [r["metrics"]["fd"]["value"] for r in rows]
                spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
                images = rows[0]["images"]
                lines.append(f"| {preset}, {total} | {images:,} | {images * per_image[preset]:,.0f} "
                             f"| {statistics.fmean(values):.2f}{spread} |")  # fmt: skip
    ours = points(results, OURS, per_image[OURS])
    for preset in presets_of(results):
        if preset == OURS or not ours:
            continue
        lines += ["", f"Cost at equal FD-domain, {OURS} against {preset} (aim: {AIM:g} times cheaper):", ""]
        lines += [f"| FD-domain | {OURS}, s | {preset}, s | times cheaper |", "|---|---|---|---|"]
        for fd, mine, cost, reached in ratios(ours, points(results, preset, per_image[preset])):
            more = "" if reached else "more than "
            lines.append(f"| {fd:.2f} | {mine:,.0f} | {more}{cost:,.0f} | {more}{cost / mine:.1f} |")
    return lines


def draw(results: dict[str, Any], per_image: dict[str, float], file: Path) -> None:
    """FD-domain against CPU seconds, both logarithmic."""
    from benchmarks import plots

    figure, (axes,) = plots.figure()
    for preset, colour in zip(presets_of(results), ("#0b5fa5", "#c2410c", "#3f7d20", "#6b21a8"), strict=False):
        found = points(results, preset, per_image[preset])
        axes.plot(*zip(*found, strict=True), "o", color=colour, alpha=0.4)
        axes.plot(*zip(*frontier(found), strict=True), "o-", color=colour, label=preset)
    axes.set(xscale="log", yscale="log", xlabel="CPU seconds of training", ylabel="FD-domain on val")
    plots.logarithmic(axes.xaxis)
    plots.logarithmic(axes.yaxis)
    plots.finish(axes)
    figure.savefig(file)


def measure(run: Run, device: str, samples: int, controls: dict[str, Any]) -> dict[str, Any]:
    """The numbers on val of a run as it is now, made with these controls."""
    model = replace(load_any(run.id, device), defaults={"generate": controls})
    return {**evaluate_model(model, run.data(), samples=samples), "images": run.status()["images"]}


def follow(arm: str, seed: int, given: argparse.Namespace) -> None:
    """Train, pause and measure one arm: {"arm", "seed", "shares": {share: numbers}} in a file of its own."""
    preset, total = arm.split(":")
    file = given.out / "curve" / f"{preset}-{total}-{seed}.json"
    mine = json.loads(file.read_text())["shares"] if file.is_file() else {}
    images = budgets.images(total)
    settings = (f"seed={seed}", f"precision={given.precision}", "grids=0", *given.set)
    run = prepared(preset, given.data, images=images, settings=settings, device=given.device)
    for share in SHARES:
        if f"{share:.0%}" not in mine:
            go_on(run, int(images * share))
            controls = {"guidance": given.guidance, "steps": given.steps}
            mine[f"{share:.0%}"] = measure(run, given.device, given.samples, controls)
            file.write_text(json.dumps({"arm": arm, "seed": seed, "shares": mine}, indent=1))


def curve(given: argparse.Namespace) -> dict[str, Any]:
    """Every arm, in turn or as so many processes: {"PRESET:IMAGES": {seed: {share: numbers}}}."""
    (given.out / "curve").mkdir(exist_ok=True)
    pairs = [(arm, seed) for seed in given.seeds for arm in given.arms]
    if given.workers == 1:
        for arm, seed in pairs:
            follow(arm, seed, given)
    else:
        domain_classifier(open_set(given.data))  # once, before all want it

        def part(pair: tuple[str, int]) -> None:
            own = ["--seeds", str(pair[1]), "--workers", "1", "--part"]
            subprocess.run(
                [sys.executable, "-m", "benchmarks.peer_unet", "curve", pair[0], *shared(given), *own], check=True
            )

        with ThreadPoolExecutor(given.workers) as pool:
            list(pool.map(part, pairs))
    results: dict[str, Any] = {arm: {} for arm in given.arms}
    for file in sorted((given.out / "curve").glob("*.json")):
        found = json.loads(file.read_text())
        results.setdefault(found["arm"], {})[str(found["seed"])] = found["shares"]
    return results


def shared(given: argparse.Namespace) -> list[str]:
    """The arguments that all parts of a curve have."""
    names = ("data", "device", "precision", "samples", "guidance", "steps", "out")
    return [
        *(text for name in names for text in (f"--{name}", str(getattr(given, name)))),
        *(text for pair in given.set for text in ("--set", pair)),
    ]


# -- the page ----------------------------------------------------------------------------------------------------------


def page(out: Path) -> str:
    """What is known so far, from speed.json and curve.json."""
    parts = (__doc__ or "").split("\n\n")
    lines = ["# A plain U-Net beside ours", "", *parts[0].split("\n"), "", *parts[2].strip().split("\n")]
    speed_file, curve_file, about = out / "speed.json", out / "curve.json", out / "curve.about.json"
    found = json.loads(speed_file.read_text()) if speed_file.is_file() else None
    if found:
        lines += ["", "## Speed", "", *speed_table(found)]
    if curve_file.is_file() and found:
        results, told = json.loads(curve_file.read_text()), json.loads(about.read_text())
        per_image = seconds_per_image(found, told["channels"])
        draw(results, per_image, out / "curve.png")
        row = next(iter(next(iter(next(iter(results.values())).values())).values()))
        identity, floor = row["metrics"]["fd"]["identity"], row["metrics"]["fd"]["floor"]
        lines += [
            "",
            "## Quality for its cost",
            "",
            f"{told['data']}, trained on {told['device']} in {told['precision']}, training seeds {told['seeds']}"
            f"{''.join(f', {pair}' for pair in told['set'])}; "
            f"{identity['n']:,} images by {told['steps']} Heun steps with guidance {told['guidance']:g} against "
            f"{identity['m']:,} real ones of {identity['split']}, generation seeds {identity['seeds']}, "
            f"{identity['extractor']} {identity['extractor_hash'][:12]}. As many real training images score "
            f"{floor:.2f}. Seconds are images times the CPU's seconds an image above.",
            "",
            *curve_table(results, per_image),
            "",
            "![FD-domain against CPU seconds](curve.png)",
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = options.add_subparsers(dest="kind", required=True)
    timing = kinds.add_parser("speed", help="training and sampling on this machine's CPU")
    timing.add_argument("--channels", type=int, nargs="+", default=[1, 3], choices=[1, 3])
    timing.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="of training")
    timing.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    timing.add_argument("--out", type=Path, help="folder of speed.json and README.md; none: print only")
    timing.add_argument("--quick", action="store_true", help="one round of one step and two images, grey")
    training = kinds.add_parser("curve", help="FD-domain against images seen")
    training.add_argument("arms", nargs="+", metavar="PRESET:IMAGES")
    training.add_argument("--data", required=True)
    training.add_argument("--device", default="auto")
    training.add_argument("--precision", choices=["bf16", "fp32"], default="fp32")
    training.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    training.add_argument("--samples", type=int, default=600, help="generated images per generation seed")
    training.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="over every preset's settings"
    )
    training.add_argument("--guidance", type=float, default=1.5)
    training.add_argument("--steps", type=int, default=8)
    training.add_argument("--workers", type=int, default=1, help="trainings side by side: small ones leave a GPU idle")
    training.add_argument("--part", action="store_true", help="be one of the workers")
    training.add_argument("--out", type=Path, required=True)
    given = options.parse_args(arguments)
    register_peer()
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    if given.kind == "speed":
        rounds, steps, batch = (1, 1, 2) if given.quick else (ROUNDS, STEPS, BATCH)
        channels = [1] if given.quick else given.channels
        found = speed(channels, pick(given.precision, "cpu"), given.threads, rounds, steps, batch)
        print("\n".join(speed_table(found)))
        if given.out:
            (given.out / "speed.json").write_text(json.dumps(found, indent=1))
    else:
        given.device = pick_device(given.device)
        for arm in given.arms:  # what is wrong is told before the first training
            preset, _, total = arm.partition(":")
            if preset not in (OURS, PEER, TUNED):
                options.error(f"found the preset {preset!r}; expected {OURS}, {PEER} or {TUNED}, as in {OURS}:60k")
            budgets.images(total)
        if given.part:
            torch.set_num_threads(1)
            curve(given)
            return
        names = ("data", "device", "precision", "seeds", "samples", "guidance", "steps", "set")
        about = {**{k: getattr(given, k) for k in names}, "channels": open_set(given.data).spec.channels}
        (given.out / "curve.about.json").write_text(json.dumps(about, indent=1))
        (given.out / "curve.json").write_text(json.dumps(curve(given), indent=1))
    if given.out:
        (given.out / "README.md").write_text(page(given.out))


if __name__ == "__main__":
    main(sys.argv[1:])
