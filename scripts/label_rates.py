# SPDX-License-Identifier: Apache-2.0
"""Measures what a training on a MONAI Label server's saved labels gains, for numbers of labels and learning rates.

Some images of a data set's validation split get labels as the server saves them. configs/train.yaml trains on them as
the server does, from the weights that are served. Both weights are then scored on the other patients of that split:
the mean over images of the Dice of what label or prediction shows, without prompts.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.engines.served import image_dice  # noqa: E402
from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder, writable_folder  # noqa: E402

TRAIN = str(ROOT / "configs" / "train.yaml")
Item = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        folder = OutputFolder(writable_folder(str(args.output)), option="--output", sources=[args.weights])
        folder.check(["rates.json"])
        rows = _measure(args, folder)
    except Exception as error:
        return failed(error)
    print(f"figures: {args.output / 'rates.json'} ({len(rows)} trainings)")
    return 0


def _measure(args: argparse.Namespace, folder: OutputFolder) -> list[dict[str, Any]]:
    items = _labeled(args)
    order = [str(group) for group in np.random.default_rng(args.seed).permutation(sorted({i["group"] for i in items}))]
    items.sort(key=lambda item: (order.index(item["group"]), item["image"]))
    largest = {item["group"] for item in items[: max(args.labels)]}
    others = [item for item in items if item["group"] not in largest]
    before = _score(args, args.weights, others)
    print(f"{before:.3f} before, on {len(others)} images of other patients", flush=True)
    rows: list[dict[str, Any]] = []
    for rate in args.rates:
        for count in args.labels:
            run = args.output / f"labels{count}_rate{rate:g}"
            best = _train(args, items[:count], rate=rate, run=run)
            after = _score(args, best, others)
            said = json.loads((run / "saved_labels.json").read_text())["outcome"]
            rows.append({"labels": count, "rate": rate, "before": before, "after": after, "others": len(others)})
            print(f"{count} labels, rate {rate:g}: {after:.3f} after; {said.split(', the new ones')[0]}", flush=True)
            folder.write("rates.json", (json.dumps(rows, indent=1) + "\n").encode())
    return rows


def _labeled(args: argparse.Namespace) -> list[Item]:
    """The split's images with masks, their labels saved as the server saves them."""
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    parser.update({"bundle_root": str(ROOT), "dataset_dir": str(args.dataset_dir)})
    dataset = parser.get_parsed_content("validate#dataset")
    labels = args.output / "labels" / "final"
    labels.mkdir(parents=True, exist_ok=True)
    found = []
    for index, raw in enumerate(dataset.data):
        if raw["dataset"] == args.dataset and any(raw["labeled"]):
            path = labels / f"{Path(raw['image']).stem}.png"
            mask = dataset[index]["label"].as_tensor()[0].byte().numpy()
            Image.fromarray(mask).save(path)
            found.append({"image": raw["image"], "label": str(path), "group": raw["group"]})
    if len({item["group"] for item in found}) <= max(args.labels):
        raise ValueError(
            f"--dataset must have more patients with masks than --labels in its validation split, got {len(found)} "
            f"images of {args.dataset!r}; lower --labels or name another set of {args.dataset_dir}/datalist.json."
        )
    return found


def _saved(items: Sequence[Item]) -> list[Item]:
    return [{"image": item["image"], "label": item["label"]} for item in items]


def _train(args: argparse.Namespace, items: Sequence[Item], *, rate: float, run: Path) -> Path:
    """Trains as the server does; returns the path of the new weights."""
    (run / "models").mkdir(parents=True, exist_ok=True)
    shutil.copy(args.weights, run / "models" / "model.pt")
    (run / "saved_labels.json").unlink(missing_ok=True)
    saved = _saved(items)
    workflow = ConfigWorkflow(
        config_file=TRAIN, meta_file=None, logging_file=False, workflow_type="train", bundle_root=str(ROOT),
        output_dir=str(run), ckpt_dir=str(run / "models"), start_weights=str(args.weights), max_epochs=args.epochs,
        image_size=args.image_size, labels_learning_rate=rate, warmup_epochs=args.warmup_epochs,
        num_threads=args.threads, device=torch.device("cpu"),
        **{"train#dataset#data": saved[1:], "validate#dataset#data": saved[:1]},
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return run / "best.pt"


def _score(args: argparse.Namespace, weights: Path, items: Sequence[Item]) -> float:
    """Mean over images of the Dice, as the server compares weights."""
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    table = {"mask_values": {index: index for index in range(len(parser["structures"]))}}
    parser.update({"bundle_root": str(ROOT), "device": torch.device("cpu"), "image_size": args.image_size})
    data = {"train#dataset#data": _saved(items[:2]), "validate#dataset#data": []}
    parser.update({**data, "comparison#evaluator#val_data_loader#dataset#data": [i | table for i in _saved(items)]})
    parser.get_parsed_content("comparison#load")(path=weights)
    parser.get_parsed_content("comparison#evaluator").run()
    return image_dice(parser.get_parsed_content("comparison#score").rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder with datalist.json")
    parser.add_argument("--dataset", default="BUSI", help="data set of the labels (%(default)s)")
    parser.add_argument("--weights", type=Path, default=ROOT / "models" / "model.pt", help="default: models/model.pt")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 30], help="numbers of labels (10 30)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-4, 1e-4, 3e-5], help="learning rates")
    parser.add_argument("--epochs", type=int, default=50, help="MONAI Label's default is 50")
    parser.add_argument("--warmup_epochs", type=float, default=1, help="at most a tenth of the epochs (1)")
    parser.add_argument("--image_size", type=int, default=224, help="side that the network sees, in pixels (224)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default: one per core)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of patients (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "label_rates", help="folder (runs/label_rates)")
    return parser


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # of this program alone: main() may run in another
    sys.exit(main())
