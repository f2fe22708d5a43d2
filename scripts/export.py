# SPDX-License-Identifier: Apache-2.0
"""Exports a checkpoint as TorchScript, ONNX and OpenVINO models that run without this project.

Each file takes images of any batch and any size that is a multiple of 32, gives all heads in one pass, and holds in its
metadata what is needed to make its inputs and to read its outputs (docs/deployment.md). It is written when it computes
what the network computes, else refused: float32 logits may differ by 0.0001; bfloat16 and int8 may cost 0.002 of the
mean Dice and 0.01 of the mean AUROC on the validation split of the datalist.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from bundle.export import PAIRS, PRECISIONS, Export, Exporter, load_source, planned, write_summary  # noqa: E402
from bundle.failures import failed  # noqa: E402


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made = "\n".join(f"  {kind:13}{', '.join(precisions)}" for kind, precisions in PAIRS.items())
    parser.epilog = (
        f"what is made of the formats and precisions asked for (others would not pay on a CPU):\n{made}\n\n"
        "files: model_<precision>.ts, .onnx, .xml with .bin (with --heads breast: model_<precision>_breast.*);\n"
        "export.json tells how each compares. Exit status 1 when a model was refused.\n"
        "Some three minutes for float32 on two CPU cores, with bfloat16 and int8 some ten."
    )
    parser.add_argument("--weights", type=Path, default=ROOT / "models" / "model.pt", help="checkpoint (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "exports", help="folder to write to (%(default)s)")
    parser.add_argument("--formats", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="default: all")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="default: all")
    parser.add_argument(
        "--heads",
        nargs="+",
        help="outputs that are computed, by names of heads or of label sets (the decoder only runs for heads that need "
        "it, such as seg); the file is named after them, and is for products, not for configs/inference.yaml; default: "
        "all",
    )
    parser.add_argument(
        "--datalist",
        type=Path,
        help="manifest (scripts/prepare_data.py) whose training images calibrate int8 and whose validation images "
        "compare bfloat16 and int8; default: the config's, which is the built-in phantom",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        type=Path,
        default=[ROOT / "configs" / "train.yaml"],
        help="training config and the overlays that the weights were trained with, such as configs/train.yaml "
        "configs/paper.yaml; default: configs/train.yaml",
    )
    parser.add_argument("--calibration_images", type=int, default=300, help="for int8 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of those images (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one per core")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that load images (%(default)s)")
    return parser.parse_args(arguments)


def line(export: Export) -> str:
    """What is told of one model."""
    if export.error:
        return f"  refused: {export.error}"
    text = f"  {' '.join(export.files)}: {export.bytes / 1e6:.1f} MB, logits within {export.difference:.2g} of eager"
    if export.kept:
        text += f", not quantized: {', '.join(export.kept)}"
    for name, value in export.scores.items():
        text += f", {name.removeprefix('val_')} {value:.4f} (eager {export.eager[name]:.4f})"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports; 0 when all models are written, 1 when one was refused or the input was not usable."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    exports: list[Export] = []
    try:
        source = load_source(args.weights, config_files=args.config, datalist=args.datalist, workers=args.num_workers)
        exporter = Exporter(
            source,
            output_dir=args.output,
            heads=args.heads,
            calibration_images=args.calibration_images,
            seed=args.seed,
            threads=args.threads,
        )
        plan = planned(args.formats, args.precisions)
        if not plan:
            raise ValueError(
                f"formats and precisions must meet in {PAIRS}, got {args.formats} and {args.precisions}; see --help."
            )
        exporter.check(plan)
        for number, (kind, precision) in enumerate(plan, 1):
            print(f"[{number}/{len(plan)}] {kind} {precision}", flush=True)
            exports.append(exporter.export(kind, precision))
            print(line(exports[-1]), file=sys.stderr if exports[-1].error else sys.stdout, flush=True)
        print(f"summary: {write_summary(source, exports, args.output)}")
    except Exception as error:
        return failed(error)
    return int(any(export.error for export in exports))


if __name__ == "__main__":
    sys.exit(main())
