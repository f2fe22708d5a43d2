# SPDX-License-Identifier: Apache-2.0
"""Tells how many labels a pretrained start saves: equally long trainings on shares of the labeled patients.

  python scripts/label_curve.py --dataset_dir data/mine --starts noise distilled=runs/pretrain/encoder.pt

A cell is a start, a share of the training patients and a seed. Each is a training by configs/train.yaml of the same
number of steps, and an evaluation of --split. Smaller shares of a seed are part of larger ones; validation and test
stay whole. Repeat the command after a stop: finished cells are not run again, and a training goes on where it was.
Cells that were trained in another way are refused; with another --split they are scored again. --only runs the cells
whose names match.

A start is noise, NAME=FILE with weights for the encoder (--encoder_weights), or NAME=ENCODER:FILE for another encoder
of timm. Options behind -- go to the training.

Writes curve.csv, with the intervals by patient of each cell, and curve.png, with the range of the seeds, to
--output_dir.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.manifest import read_datalist  # noqa: E402
from bundle.data.splits import SPLITS  # noqa: E402
from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder, sha256  # noqa: E402
from bundle.pretraining.cells import CellFolder, told_options  # noqa: E402
from bundle.pretraining.curve import Cell, draw, only_sets, patients, real_root, subset  # noqa: E402
from bundle.tables import csv_table  # noqa: E402

NOISE = "noise"


class Start(NamedTuple):
    """What an encoder starts from: the options of the training, and the same with the hash of the file in its place."""

    options: list[str]
    told: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, others = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder with datalist.json")
    parser.add_argument("--datasets", nargs="+", help="of the list; default: all that have labels")
    parser.add_argument("--starts", nargs="+", default=[NOISE], help="noise, NAME=FILE or NAME=ENCODER:FILE")
    parser.add_argument("--percents", nargs="+", type=float, default=[1, 5, 10, 20, 50, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=9, help="(default %(default)s)")
    parser.add_argument("--draws", type=int, default=600, help="images of an epoch (default %(default)s)")
    parser.add_argument("--image_size", type=int, default=128, help="side in pixels (default %(default)s)")
    parser.add_argument("--split", default="val", choices=SPLITS, help="that is scored (default %(default)s)")
    parser.add_argument("--only", default="", help="regular expression of the names of cells to run")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/label_curve"), help="(default %(default)s)")
    try:
        return _run(parser.parse_args(own), others)
    except Exception as error:
        return failed(error, status=2)


def _run(args: argparse.Namespace, others: Sequence[str]) -> int:
    if not all(0 < percent <= 100 for percent in args.percents) or min(args.epochs, args.draws) < 1:
        raise ValueError(f"--percents must be above 0 and up to 100, --epochs and --draws 1 or more, got {args}.")
    output = OutputFolder(args.output_dir)
    output.check(["curve.csv", "curve.png"])
    starts = dict(_start(text) for text in args.starts)
    folders = _folders(args, starts, others)
    for cell, folder in folders.items():
        folder.check_training()
        if _is_run(cell, folder, args.only):
            folder.check_files()
    rows: list[dict[str, Any]] = []
    for number, (cell, folder) in enumerate(folders.items(), start=1):
        folder.check_training()
        if _is_run(cell, folder, args.only):
            print(f"{cell.name}: cell {number} of {len(folders)}, {patients(folder.part)} patients", flush=True)
            _train(cell, folder, starts[cell.start], args, others)
        elif folder.scores() is None:
            print(f"{cell.name}: not finished for --split {args.split}, left out", flush=True)
        told = {"start": cell.start, "percent": cell.percent, "seed": cell.seed, "patients": patients(folder.part)}
        rows += [{**told, "split": args.split, **score} for score in folder.scores() or ()]
    if not rows:
        raise ValueError("finished cells expected, got none; change --only.")
    for file, content in (("curve.csv", csv_table(rows)), ("curve.png", draw(rows))):
        print(f"written: {output.write(file, content)}")
    return 0


def _folders(args: argparse.Namespace, starts: Mapping[str, Start], others: Sequence[str]) -> dict[Cell, CellFolder]:
    """The cells and their folders, in the order in which they are run."""
    manifest = read_datalist(args.dataset_dir / "datalist.json", labels=False)
    entries = manifest["datasets"].items()
    names = args.datasets or [name for name, entry in entries if {"label_set", "mask_values"} & set(entry)]
    chosen, root = only_sets(manifest, names), real_root(args.dataset_dir, manifest)
    cells = [Cell(start, percent, seed) for seed in args.seeds for percent in args.percents for start in starts]
    same = {"epochs": args.epochs, "draws": args.draws, "image size": args.image_size}
    same["options"] = told_options(others, top=ROOT)
    return {
        cell: CellFolder(
            args.output_dir.resolve() / cell.name,
            part=subset(chosen, root=root, percent=cell.percent, seed=cell.seed),
            training={"seed": cell.seed, **starts[cell.start].told, **same},
            split=args.split,
        )
        for cell in cells
    }


def _is_run(cell: Cell, folder: CellFolder, only: str) -> bool:
    return folder.scores() is None and re.search(only, cell.name) is not None


def _start(text: str) -> tuple[str, Start]:
    """Name of a start, and the start."""
    name, _, source = text.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9-]+", name) or (not source and name != NOISE):
        raise ValueError(f"--starts must be noise, NAME=FILE or NAME=ENCODER:FILE, got {text!r}; correct it.")
    if not source:
        return name, Start([], {"encoder": "that of the config", "weights of the encoder": NOISE})
    encoder, _, file = source.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"--starts {name}: a file of weights expected, got {file}, which is none; correct the path.")
    options = ["--encoder_weights", str(Path(file).resolve()), *(["--encoder", encoder] if encoder else [])]
    told = {"encoder": encoder or "that of the config", "weights of the encoder": f"SHA-256 {sha256(file)}"}
    return name, Start(options, told)


def _train(cell: Cell, folder: CellFolder, start: Start, args: argparse.Namespace, others: Sequence[str]) -> None:
    """Trains and evaluates a cell, or goes on with it."""
    folder.begin()
    weights, cache = str(folder.weights), str(args.output_dir.resolve() / "cache")
    same = ["--dataset_dir", str(folder.path), "--ckpt_path", weights, "--bundle_root", str(ROOT)]
    training = ["--output_dir", str(folder.path / "run"), "--cache_dir", cache, "--image_size", str(args.image_size)]
    training += ["--max_epochs", str(args.epochs), "--samples_per_epoch", str(args.draws)]
    training += ["--val_interval", str(args.epochs), "--seed", str(cell.seed), *start.options, *others]
    resumed = ["--resume", "true"] if folder.resumable else []
    if not folder.weights.is_file():
        _call(
            ["training", "--config_file", _configs("train")], [*same, *training, *resumed], folder.new_log("training")
        )
    evaluation = ["--output_dir", str(folder.path / "eval"), "--split", args.split]
    _call(["--config_file", _configs("train", "evaluate")], [*same, *evaluation], folder.new_log("evaluation"))
    folder.finish()


def _configs(*names: str) -> str:
    return str([str(ROOT / f"configs/{name}.yaml") for name in names])


def _call(what: Sequence[str], options: Sequence[str], log: IO[bytes]) -> None:
    with log:
        command = [sys.executable, "-m", "monai.bundle", "run", *what, *options]
        status = subprocess.run(command, stdout=log, stderr=log, cwd=ROOT).returncode
    if status:
        last = Path(log.name).read_text(errors="replace").splitlines()[-1:]
        raise ValueError(f"{log.name} says why this cell failed: {' '.join(last)}")


if __name__ == "__main__":
    sys.exit(main())
