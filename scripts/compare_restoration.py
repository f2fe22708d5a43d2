# SPDX-License-Identifier: Apache-2.0
"""Compares a network that restores with filters of scikit-image, on real images that were degraded.

  python scripts/compare_restoration.py --dataset_dir data/mine --weights models/restore/model.pt

Each image is degraded by speckle, by haze and by lost lines, one at a time, always in the same way. PSNR and SSIM
compare with the image before; CNR and gCNR tell how a structure of the mask stands out of a ring round it. The filters'
parameters are those with the highest PSNR on validation images. Writes restoration.csv, restoration.md, with 95 %
intervals by patient, and restoration.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402
from monai.data import decollate_batch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from bundle.data.splits import SPLITS  # noqa: E402
from bundle.engines.score import unreadable_row  # noqa: E402
from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.metrics import Row  # noqa: E402
from bundle.metrics.restoration import restoration_row, restoration_tables, summarize_restoration  # noqa: E402
from bundle.networks.weights import load_network  # noqa: E402
from bundle.report.restoration import FILTERS, best_parameters, draw_restored, filtered  # noqa: E402
from bundle.report.tables import common_folder, end_with, unreadable_lines, without_folder  # noqa: E402
from bundle.tables import csv_table  # noqa: E402
from bundle.tasks.restoration import DEGRADED, RESTORED, restored  # noqa: E402
from bundle.vocabulary import RESTORE  # noqa: E402

KINDS = ("speckle", "haze", "lines")
CONFIGS = [str(ROOT / f"configs/{name}.yaml") for name in ("train", "evaluate", "restore")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder with datalist.json")
    parser.add_argument("--weights", type=Path, default=ROOT / "models/restore/model.pt", help="(default %(default)s)")
    parser.add_argument("--split", default="test", choices=SPLITS, help="that is scored (default %(default)s)")
    parser.add_argument("--datasets", nargs="+", help="data sets (default: all)")
    parser.add_argument("--images", type=int, default=20, help="at most, of each data set (default %(default)s)")
    parser.add_argument("--tuned_on", type=int, default=12, help="validation images (default %(default)s)")
    parser.add_argument("--image_size", type=int, help="side that the network sees (default: as trained)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=Path("eval/restoration"), help="(default %(default)s)")
    args = parser.parse_args(arguments)
    try:
        return _run(args)
    except Exception as error:
        return failed(error, status=2)


def _run(args: argparse.Namespace) -> int:
    if args.images < 1 or args.tuned_on < 1 or args.resamples < 1:
        raise ValueError("--images, --tuned_on and --resamples must be 1 or more; correct them.")
    output = OutputFolder(args.output_dir)
    output.check(["restoration.csv", "restoration.md", "restoration.png"])
    rows: list[dict[str, Any]] = []
    unread: dict[str, Row] = {}  # image -> its row
    pictures: dict[str, dict[str, np.ndarray]] = {}
    lines = ["# Restoration", ""]
    for kind in KINDS:
        tuned = [pair for pair, _, _ in _images(args, kind, unread, split="val", count=args.tuned_on, network=False)]
        if not tuned:
            raise ValueError(f"{args.dataset_dir}: validation images that can be read expected, got none; add some.")
        chosen = best_parameters([tuned[place] for place in _evenly(len(tuned), args.tuned_on)])
        cell = []
        for (clean, degraded), item, correction in _images(args, kind, unread, split=args.split, count=args.images):
            made = {DEGRADED: degraded, RESTORED: restored(degraded, correction)}
            made |= {name: filtered(of, degraded, chosen[name]) for name, (of, _) in FILTERS.items()}
            cell += [restoration_row(method, image, clean, item) for method, image in made.items()]
            pictures.setdefault(kind, {"clean": clean, **made})
        rows += [{"degradation": kind, **row} for row in cell]
        entries = summarize_restoration(cell, resamples=args.resamples, seed=args.seed)
        told = "; ".join(f"{name} {', '.join(f'{k} {v}' for k, v in one.items())}" for name, one in chosen.items())
        lines += [f"## {kind.capitalize()}", "", f"Parameters: {told}.", "", *restoration_tables(entries), ""]
    if not rows:
        raise ValueError(f"{args.dataset_dir}: images of {args.split} that can be read expected, got none; add some.")
    unreadable = without_folder(list(unread.values()), common_folder([*unread, *(row["image"] for row in rows)]))
    lines += [*unreadable_lines(unreadable), ""]
    print("\n".join(lines))
    output.write("restoration.md", "\n".join(lines).encode())
    output.write("restoration.png", draw_restored(list(pictures.values()), list(pictures)))
    print(f"written: {output.write('restoration.csv', csv_table(rows)).parent}")
    end_with(unreadable)
    return 0


Pair = tuple[np.ndarray, np.ndarray]


def _images(
    args: argparse.Namespace, kind: str, unread: dict[str, Row], *, split: str, count: int, network: bool = True
) -> Iterator[tuple[Pair, dict[str, Any], torch.Tensor]]:
    """Clean and degraded images, their items, and what the network would add to each; zeros without the network.

    Images that cannot be read are left out, with the reason in ``unread``.

    Raises:
        ValueError: when a data set is not in the split, or the weights do not restore.
    """
    config = ConfigParser(ConfigParser.load_config_files(CONFIGS))
    sides = {} if args.image_size is None else {"image_size": args.image_size}
    probabilities = {f"{name}_prob": float(name == kind) for name in KINDS}
    options = {"dataset_dir": str(args.dataset_dir), "ckpt_path": str(args.weights), "split": split, "num_workers": 0}
    config.update({"bundle_root": str(ROOT), **options, **sides, **probabilities})
    dataset = config.get_parsed_content("validate#dataset")
    names = [item["dataset"] for item in dataset.data]
    if unknown := sorted(set(args.datasets or ()) - set(names)):
        raise ValueError(f"--datasets must name some of {sorted(set(names))}, got {unknown}; correct them.")
    places = [place for name in args.datasets or sorted(set(names)) for place in _spread(names, name, count)]
    model = config.get_parsed_content("network_def")
    if network:
        load_network(model, args.weights)
    model.eval()
    inferer, after = config.get_parsed_content("validate#inferer"), config.get_parsed_content("validate#postprocessing")
    for place in tqdm(places, desc=f"{split}, {kind}", unit="image", leave=False):
        item = dataset[place]
        if item["error"]:
            row = unreadable_row(item)
            unread[row["image"]] = row
            continue
        clean, degraded = (image.numpy() for image in torch.as_tensor(item["targets"][RESTORE]))
        correction = torch.zeros(clean.shape)
        if network:
            with torch.inference_mode():
                item["pred"] = decollate_batch(inferer(item["image"][None], model))[0]
            correction = after(item)["found"][RESTORE]
        yield (clean, degraded), item, correction


def _spread(names: Sequence[str], name: str, count: int) -> list[int]:
    """Places of at most ``count`` images of a data set, evenly over its list."""
    places = [place for place, other in enumerate(names) if other == name]
    return [places[place] for place in _evenly(len(places), count)]


def _evenly(length: int, count: int) -> list[int]:
    return [round(place) for place in np.linspace(0, length - 1, min(count, length))]


if __name__ == "__main__":
    sys.exit(main())
