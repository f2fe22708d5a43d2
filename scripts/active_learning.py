# SPDX-License-Identifier: Apache-2.0
"""Measures whether MONAI Label's epistemic score finds the images that the network segments badly.

Scores the images of a split as MONAI Label does (dropout and stochastic depth active, unknown prompts, entropy of the
mean probability) and compares the scores with the Dice of the automatic result (unknown prompts too).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.metrics import compute_dice
from scipy.stats import spearmanr
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.data.splits import SPLITS
from bundle.engines.score import unreadable_row
from bundle.failures import failed, one_line
from bundle.files import OutputFolder, writable_folder
from bundle.metrics import Row
from bundle.metrics.bootstrap import estimate, mean_estimate
from bundle.metrics.tables import number
from bundle.networks.weights import load_network
from bundle.tables import csv_table

ROOT = Path(__file__).resolve().parents[1]

EPILOG = """\
example:
  python scripts/active_learning.py --dataset_dir data/real --output eval/uncertainty.csv
"""


Scored = tuple[dict[str, Any], Any, float]  # raw item, sample, score


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        unreadable = _rank(options)
    except Exception as error:
        return failed(error)
    print(f"written: {options.output}")
    for row in unreadable:
        print(one_line(f"not scored: {row['image']}: {row['error']}"), file=sys.stderr)
    return int(bool(unreadable))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_dir", required=True, help="folder with datalist.json")
    parser.add_argument("--output", type=Path, required=True, help="CSV file: score and Dice of each image")
    parser.add_argument("--weights", default=str(ROOT / "models/model.pt"), help="default: models/model.pt")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--simulations", type=int, default=10, help="passes with dropout (default: 10)")
    parser.add_argument("--dropout", type=float, default=0.2, help="its rate (default: 0.2)")
    return parser


def _output(options: argparse.Namespace) -> OutputFolder:
    """The folder of the table, which is written in the end, once it is sure that it can be."""
    sources = [Path(options.dataset_dir, "datalist.json"), options.dataset_dir, options.weights]
    folder = OutputFolder(writable_folder(str(options.output.parent)), option="--output", sources=sources)
    folder.check([options.output.name])
    return folder


def _configured(options: argparse.Namespace, **changes: Any) -> ConfigParser:
    files = [str(ROOT / "configs" / name) for name in ("train.yaml", "evaluate.yaml")]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    given = {"dataset_dir": options.dataset_dir, "ckpt_path": options.weights, "num_workers": 0}
    parser.update({"bundle_root": str(ROOT), **given, **changes})
    return parser


def _as_scored(options: argparse.Namespace, **changes: Any) -> ConfigParser:
    """With dropout, and unknown prompts, as MONAI Label's scoring has it."""
    return _configured(options, dropout=options.dropout, **{"validate#item_transforms#0#drop_prob": 1.0}, **changes)


def _items(parser: ConfigParser) -> Iterator[tuple[dict[str, Any], Any]]:
    """Raw items with a mask, and their transformed samples."""
    dataset = parser.get_parsed_content("validate#dataset")
    for index in tqdm([i for i, raw in enumerate(dataset.data) if any(raw["labeled"])], unit="image"):
        yield dataset.data[index], dataset[index]


def epistemic_score(network: torch.nn.Module, inferer: Any, image: torch.Tensor, *, simulations: int) -> float:
    """Mean over the image of the entropy of the mean probability, in nats, as MONAI Label's scoring computes it.

    Args:
        network: a ``UPerConvNeXt`` with dropout, which is put in train mode.
        inferer: a ``PromptedInferer``.
        image: (3, H, W), normalized.
        simulations: number of passes.
    """
    network.train()
    with torch.no_grad():
        passes = [inferer(image[None], network)["seg"].softmax(1)[0] for _ in range(simulations)]
    mean = torch.stack(passes).mean(0).clamp(min=5e-5)
    return float(-(mean * mean.log()).sum(0).mean())


def _scored(parser: ConfigParser, options: argparse.Namespace) -> Iterator[Scored]:
    network = parser.get_parsed_content("network_def")
    load_network(network, options.weights)
    inferer = parser.get_parsed_content("validate#inferer")
    torch.manual_seed(0)
    for raw, item in _items(parser):
        image = item["image"].as_tensor()
        score = 0.0 if item["error"] else epistemic_score(network, inferer, image, simulations=options.simulations)
        yield raw, item, score


def _rank(options: argparse.Namespace) -> list[Row]:
    """Writes and prints the scores; rows of the images that could not be read."""
    output = _output(options)
    network = _configured(options).get_parsed_content("network_def").eval()
    load_network(network, options.weights)
    parser = _as_scored(options, split=options.split)
    inferer, postprocessing = (parser.get_parsed_content(f"validate#{name}") for name in ("inferer", "postprocessing"))
    rows, unreadable = [], []
    for raw, item, score in _scored(parser, options):
        if item["error"]:
            unreadable.append(unreadable_row(item))
            continue
        with torch.no_grad():
            outputs = inferer(item["image"].as_tensor()[None], network)
        found = postprocessing({"image": item["image"], "pred": {k: v[0] for k, v in outputs.items()}})["pred"]
        truth = item["label"].as_tensor()
        if not truth.any():
            continue
        structures = [s for s in truth.unique() if s]
        dice = [float(compute_dice((found == s)[None].float(), (truth == s)[None].float())) for s in structures]
        rows.append({"dataset": raw["dataset"], "image": Path(raw["image"]).name, "group": raw["group"]})
        rows[-1] |= {"entropy": score, "dice": float(np.mean(dice))}
    if not rows:
        raise ValueError(f"{options.dataset_dir}: images of {options.split} with a structure expected, got none.")
    output.write(options.output.name, csv_table([{k: v for k, v in r.items() if k != "group"} for r in rows]))
    print("| data set | images | rank correlation of score and Dice | Dice, most uncertain fifth | Dice, the rest |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys(row["dataset"] for row in rows):
        print(_rank_line(name, [row for row in rows if row["dataset"] == name]))
    print(_rank_line("all", rows))
    return unreadable


def _rank_line(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    entropy, dice = np.array([r["entropy"] for r in rows]), np.array([r["dice"] for r in rows])
    groups = [r["group"] for r in rows]
    rng = np.random.default_rng(0)
    members = {g: np.flatnonzero(np.array(groups) == g) for g in groups}
    resampled = []
    for _ in range(1000):
        drawn = np.concatenate([members[g] for g in rng.choice(list(members), len(members))])
        resampled.append(spearmanr(entropy[drawn], dice[drawn]).statistic)
    correlation = estimate(spearmanr(entropy, dice).statistic, np.array(resampled), groups=groups)
    order = np.argsort(-entropy)
    count = max(1, len(order) // 5)
    halves = (order[:count], order[count:])
    means = [mean_estimate(list(dice[part]), [groups[i] for i in part], resamples=1000, seed=0) for part in halves]
    return f"| {name} | {len(rows)} | {' | '.join(number(e) for e in (correlation, *means))} |"


if __name__ == "__main__":
    logging.disable(logging.INFO)  # only of this program: main() may run in another
    sys.exit(main())
