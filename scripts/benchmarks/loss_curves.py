# SPDX-License-Identifier: Apache-2.0
"""Compares the loss of the shipped training step with that of plain eager float32, on the same batches.

Three networks start from the same weights and train side by side: one in float32 and NCHW; one as shipped; and one
like the first on batches drawn with another seed, which shows the noise between runs. In all of them the decoder gets
the images with a mask alone: its batch norm would take other means with the rest of the batch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bundle.engines import TrainingNetwork, prepare_batch, warmup_polynomial  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.report.pictures import png  # noqa: E402
from bundle.tables import csv_table  # noqa: E402
from scripts.benchmarks.training import CONFIGS, Training, read_config  # noqa: E402

RUNS = ("plain", "shipped", "plain, other seed")
EPILOG = """\
example (10 minutes on two CPU cores, the paper's network an hour):
  python scripts/benchmarks/loss_curves.py --datalist data/real/datalist.json --output runs/loss_curves.csv
"""


class Run:
    """A training with its own network, optimizer and schedule.

    Args:
        kind: compact or paper.
        shipped: with the shipped training step; else plain eager float32.
        args: the command line.
        loader: only its length is used.
    """

    def __init__(self, kind: str, *, shipped: bool, args: argparse.Namespace, loader: Any) -> None:
        self.made = Training.from_config(kind, seed=args.seed)
        self.schedule = warmup_polynomial(self.made.optimizer, loader=loader, epochs=1, warmup_epochs=0.1)
        self.trained = TrainingNetwork(self.made.network, device="cpu").train() if shipped else None
        self.made.network.train()

    def step(self, batch: Any, *, seed: int) -> float:
        """The loss of a batch, after a step of the optimizer; stochastic depth is drawn from ``seed``."""
        image, target, _, told = prepare_batch(batch, "cpu")
        torch.manual_seed(seed)
        loss = self.made.step(lambda: self._forward(image, told), target)
        self.schedule.step()
        return loss

    def _forward(self, image: Tensor, told: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.trained is not None:
            outputs: dict[str, Tensor] = self.trained(image, told["prompt"], told["labeled"])
            return outputs
        levels, feature = self.made.network.encode(image.contiguous(), told["prompt"])
        rows = told["labeled"].any(1)
        return {**self.made.network.classify(feature), "seg": self.made.network.decode([x[rows] for x in levels])}


def batches(args: argparse.Namespace, *, seed: int) -> Any:
    """Loader of ``steps`` batches, drawn and augmented with ``seed``; no clicks."""
    config = read_config(
        args.network,
        datalist=str(args.datalist),
        seed=seed,
        batch_size=args.batch,
        samples_per_epoch=args.batch * args.steps,
        num_workers=args.workers,
        interaction_prob=0.0,
    )
    return config.get_parsed_content("train#dataloader")


def train(args: argparse.Namespace) -> np.ndarray:
    """Losses (steps, 3) of the runs in RUNS, side by side."""
    loader, other = batches(args, seed=args.seed), batches(args, seed=args.seed + 1)
    runs = [Run(args.network, shipped=name == "shipped", args=args, loader=loader) for name in RUNS]
    losses = []
    folder = OutputFolder(args.output.parent, option="--output")
    folder.check([args.output.with_suffix(".png").name])
    columns = ["step", *RUNS]
    with folder.grow(args.output.name).open("ab") as file:
        file.write(csv_table([], columns))
        bar = tqdm(zip(loader, other, strict=True), total=len(loader), disable=None)
        for step, (same, different) in enumerate(bar):
            given = (same, same, different)
            losses.append([run.step(batch, seed=step) for run, batch in zip(runs, given, strict=True)])
            row = {"step": step, **{name: f"{loss:.6f}" for name, loss in zip(RUNS, losses[-1], strict=True)}}
            file.write(csv_table([row], columns, header=False))
            file.flush()
    folder.finish(args.output.name)
    return np.array(losses)


def summary(losses: np.ndarray) -> dict[str, float]:
    """How far the runs lie apart.

    Args:
        losses: (steps, 3) of the runs in RUNS.

    Returns:
        ``plain``, ``shipped`` and ``other seed``, mean losses; ``difference``, mean of shipped minus plain;
        ``noise``, mean of the other seed minus plain; ``step difference`` and ``step noise``, means of their absolute
        values, step by step.
    """
    plain, shipped, other = losses.T
    return {
        "plain": float(plain.mean()),
        "shipped": float(shipped.mean()),
        "other seed": float(other.mean()),
        "difference": float((shipped - plain).mean()),
        "noise": float((other - plain).mean()),
        "step difference": float(np.abs(shipped - plain).mean()),
        "step noise": float(np.abs(other - plain).mean()),
    }


def plot(losses: np.ndarray, *, window: int = 10) -> bytes:
    """A PNG file with the curves, each a moving mean of ``window`` steps."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    window = min(window, len(losses))
    for name, curve in zip(RUNS, losses.T, strict=True):
        axes.plot(np.convolve(curve, np.ones(window) / window, "valid"), label=name, linewidth=1.2)
    axes.set(xlabel="step", ylabel=f"loss, mean of {window} steps")
    axes.legend()
    with mpl.rc_context({"savefig.dpi": 150}):
        return png(figure)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--datalist", type=Path, default=ROOT / "data" / "phantom" / "datalist.json", help="default: the phantom's"
    )
    parser.add_argument("--network", choices=list(CONFIGS), default="compact", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each of the two streams of batches")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "loss_curves.csv", help="CSV; the PNG is beside")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, writes the curves and prints how far they lie apart."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    losses = train(args)
    OutputFolder(args.output.parent, option="--output").write(args.output.with_suffix(".png").name, plot(losses))
    for part in np.array_split(np.arange(len(losses)), min(3, len(losses))):
        found = ", ".join(f"{name} {value:.4f}" for name, value in summary(losses[part]).items())
        print(f"mean loss of steps {part[0]} to {part[-1]}: {found}")
    print(f"written: {args.output}, {args.output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
