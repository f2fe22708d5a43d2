# SPDX-License-Identifier: Apache-2.0
"""Does MONAI Label's epistemic score find images that the network gets wrong, and does labeling them first pay?"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.metrics import compute_dice
from scipy.stats import spearmanr
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.failures import failed
from bundle.files import OutputFolder, writable_folder
from bundle.metrics.bootstrap import Estimate, estimate, mean_estimate
from bundle.networks.weights import load_network
from bundle.tables import csv_table

ROOT = Path(__file__).resolve().parents[1]

EPILOG = """\
rank scores the images of a split as MONAI Label's scoring does (dropout and stochastic depth active, unknown prompts,
entropy of the mean probability) and compares the scores with the Dice of the automatic result (unknown prompts too).

round simulates labeling on one data set: weights that never saw it learn a few of its images, then as many again picked
by the score or at random; the Dice on the test split tells which pick was better. Repeated with several seeds.

examples:
  python scripts/active_learning.py rank --dataset_dir data/real --output eval/uncertainty.csv
  python scripts/active_learning.py round --dataset_dir data/real --dataset BUSI --start FILE --output runs/active
"""


Scored = tuple[dict[str, Any], Any, float]  # raw item, sample, score


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except Exception as error:
        return failed(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    rank = commands.add_parser("rank", help="compare the scores with the Dice")
    rank.add_argument("--weights", default=str(ROOT / "models/model.pt"), help="checkpoint (default: models/model.pt)")
    rank.add_argument("--split", default="test", choices=("train", "val", "test"))
    rank.set_defaults(run=_rank)
    simulate = commands.add_parser("round", help="simulate a round of labeling")
    simulate.add_argument("--dataset", required=True, help="name of the data set that is labeled")
    simulate.add_argument("--start", required=True, help="checkpoint that has not seen it")
    simulate.add_argument("--labels", type=int, default=40, help="images labeled before and in the round (default: 40)")
    simulate.add_argument("--pool", type=int, default=200, help="unlabeled images to pick from (default: 200)")
    simulate.add_argument("--draws", type=int, default=1200, help="samples drawn in each training (default: 1200)")
    simulate.add_argument("--seeds", type=int, default=3, help="repetitions (default: 3)")
    simulate.set_defaults(run=_round)
    for command in (rank, simulate):
        command.add_argument("--dataset_dir", required=True, help="folder with datalist.json")
        command.add_argument("--output", required=True, help="rank: CSV file; round: folder of the trainings")
        command.add_argument("--simulations", type=int, default=10, help="passes with dropout (default: 10)")
        command.add_argument("--dropout", type=float, default=0.2, help="its rate (default: 0.2)")
    return parser


def _output(options: argparse.Namespace, path: Path) -> OutputFolder:
    """The folder of a file that is written in the end, once it is sure that it can be."""
    sources = [Path(options.dataset_dir, "datalist.json"), options.dataset_dir]
    sources += [value for name in ("weights", "start") if (value := getattr(options, name, None))]
    folder = OutputFolder(writable_folder(str(path.parent)), option="--output", sources=sources)
    folder.check([path.name])
    return folder


def _configured(options: argparse.Namespace, **changes: Any) -> ConfigParser:
    files = [str(ROOT / "configs" / name) for name in ("train.yaml", "evaluate.yaml")]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update({"bundle_root": str(ROOT), "dataset_dir": options.dataset_dir, "num_workers": 0, **changes})
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


def _scored(parser: ConfigParser, weights: str, options: argparse.Namespace) -> Iterator[Scored]:
    network = parser.get_parsed_content("network_def")
    load_network(network, weights)
    inferer = parser.get_parsed_content("validate#inferer")
    torch.manual_seed(0)
    for raw, item in _items(parser):
        yield raw, item, epistemic_score(network, inferer, item["image"].as_tensor(), simulations=options.simulations)


def _rank(options: argparse.Namespace) -> int:
    output = _output(options, Path(options.output))
    network = _configured(options).get_parsed_content("network_def").eval()
    load_network(network, options.weights)
    parser = _as_scored(options, split=options.split)
    inferer, postprocessing = (parser.get_parsed_content(f"validate#{name}") for name in ("inferer", "postprocessing"))
    rows = []
    for raw, item, score in _scored(parser, options.weights, options):
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
    output.write(Path(options.output).name, csv_table([{k: v for k, v in r.items() if k != "group"} for r in rows]))
    print("| data set | images | rank correlation of score and Dice | Dice, most uncertain fifth | Dice, the rest |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys(row["dataset"] for row in rows):
        print(_rank_line(name, [row for row in rows if row["dataset"] == name]))
    print(_rank_line("all", rows))
    print(f"written: {options.output}")
    return 0


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
    return f"| {name} | {len(rows)} | {' | '.join(_text(e) for e in (correlation, *means))} |"


def _text(value: Estimate) -> str:
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _train(options: argparse.Namespace, items: Sequence[Any], *, start: str, seed: int, folder: Path) -> str:
    """Trains on items from a checkpoint; returns the path of the new one."""
    workflow = ConfigWorkflow(
        config_file=str(ROOT / "configs/train.yaml"), meta_file=None, logging_file=False, workflow_type="train",
        bundle_root=str(ROOT), dataset_dir=options.dataset_dir, output_dir=str(folder), ckpt_dir=str(folder), seed=seed,
        start_weights=start, max_epochs=1, samples_per_epoch=options.draws, warmup_epochs=0.1, learning_rate=5e-4,
        task_weights=None, **{"train#dataset#data": list(items), "validate#dataset#data": []},
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return str(folder / "model.pt")


def _evaluate(options: argparse.Namespace, weights: str) -> float:
    """Mean Dice on the data set's test images that hold a structure."""
    parser = _configured(options)
    data = parser.get_parsed_content("validate#dataset#data")
    parser = _configured(options, ckpt_path=weights, **{"validate#key_metric#val_score#surface": False})
    parser["validate#dataset#data"] = [raw for raw in data if raw["dataset"] == options.dataset]
    parser["validate#handlers"] = parser["validate#handlers"][:1]
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    return float(evaluator.state.metrics["val_dice"])


def _round(options: argparse.Namespace) -> int:
    output = _output(options, Path(options.output, "round.json"))
    train = _configured(options).get_parsed_content("train#dataset#data")
    own = [raw for raw in train if raw["dataset"] == options.dataset and any(raw["labeled"])]
    if len(own) < options.labels + options.pool:
        raise ValueError(
            f"--dataset must have at least {options.labels + options.pool} training images with masks (--labels + "
            f"--pool), got {len(own)} of {options.dataset!r}; lower them."
        )
    results = []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        drawn = [own[i] for i in rng.permutation(len(own))[: options.labels + options.pool]]
        labeled, pool = drawn[: options.labels], drawn[options.labels :]
        folder = Path(options.output) / f"seed{seed}"
        first = _train(options, labeled, start=options.start, seed=seed, folder=folder / "first")
        parser = _as_scored(options, **{"validate#dataset#data": pool})
        scores = [score for _, _, score in _scored(parser, first, options)]
        picks = {"score": np.argsort(scores)[::-1][: options.labels], "random": np.arange(options.labels)}
        dice = {"before": _evaluate(options, first)}
        for name, pick in picks.items():
            items = labeled + [pool[i] for i in pick]
            weights = _train(options, items, start=first, seed=seed, folder=folder / name)
            dice[name] = _evaluate(options, weights)
        results.append(dice)
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in dice.items()), flush=True)
    gains = [r["score"] - r["random"] for r in results]
    print(f"score minus random: mean {np.mean(gains):+.3f}, from {min(gains):+.3f} to {max(gains):+.3f}")
    output.write("round.json", (json.dumps(results, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    logging.disable(logging.INFO)  # of this program alone: main() may run in another
    sys.exit(main())
