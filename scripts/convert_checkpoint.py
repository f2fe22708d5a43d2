# SPDX-License-Identifier: Apache-2.0
"""Turns other people's weights into this project's.

A checkpoint of the paper's authors becomes a whole network for configs/paper.yaml; ConvNeXt weights of
facebookresearch or timm become an encoder start (encoder_weights in the configs).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.failures import failed, one_line
from bundle.networks import build_uperconvnext, conversion
from bundle.networks.conversion import Conversion
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.weights import read_file, save_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Converts one file; 0 when it is written, 1 when it is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="checkpoint: .pt, .pth or .safetensors")
    parser.add_argument("destination", type=Path, help="file to write, such as models/start/paper.pt; must not exist")
    parser.add_argument("--layout", choices=("auto", "authors", "facebook", "timm"), default="auto")
    parser.add_argument("--encoder", help="timm name that facebook or timm weights belong to, such as convnext_atto")
    parser.add_argument(
        "--input",
        choices=("rgb", "bgr"),
        default="rgb",
        help="images that the authors' network will get: rgb = RGB normalized by the encoder's mean and standard "
        "deviation, as the shipped configs do (default); bgr = BGR values in [0, 1], as the authors did",
    )
    options = parser.parse_args(arguments)
    try:
        converted, config = convert(options)
        save_checkpoint(options.destination, model=converted.state, network_config=config)
    except Exception as error:
        return failed(error)
    print(report(converted))
    print(f"written: {options.destination}")
    if "structures" not in config:
        print(
            f"an encoder start: use it with --encoder_weights {options.destination}; all other parts start at random."
        )
    return 0


def convert(options: argparse.Namespace) -> tuple[Conversion, dict[str, Any]]:
    """The converted weights and the network_config that they belong to."""
    if options.destination.exists():
        raise ValueError(f"{options.destination} must be a new file, got one that exists; remove it or rename yours.")
    state = conversion.state_dict(read_file(options.source), options.source)
    layout = conversion.detect_layout(state, options.source)
    if layout == "bundle":
        raise ValueError(f"{options.source} is in this project's layout already; use it as it is.")
    if options.layout not in ("auto", layout):
        raise ValueError(f"{options.source} must be in the layout {options.layout}, got {layout}; use --layout auto.")
    if layout == "authors":
        return _authors(state, options)
    if options.encoder is None:
        raise ValueError(f"{layout} weights need the encoder's timm name; add --encoder, such as convnext_tiny.")
    encoder = ConvNeXtEncoder(options.encoder)
    found = conversion.convert_encoder(state, encoder, name=options.encoder, path=options.source)
    own = {f"encoder.{name}": value for name, value in found.state.items()}
    untouched = [f"encoder.{name}" for name in found.untouched]
    return Conversion(own, found.taken, found.ignored, untouched), {"encoder": options.encoder}


def report(converted: Conversion) -> str:
    """What was taken, ignored and left untouched: counts, and names grouped by their first two parts."""
    lines = []
    for title in ("taken", "ignored", "untouched"):
        names: list[str] = getattr(converted, title)
        groups = Counter(".".join(name.split(".")[:2]) for name in names)
        lines.append(f"{title}: {len(names)}")
        lines += [f"  {one_line(group)}  ({count})" for group, count in groups.items()]
    return "\n".join(lines)


def _authors(state: dict[str, Any], options: argparse.Namespace) -> tuple[Conversion, dict[str, Any]]:
    network = build_uperconvnext(**conversion.authors_arguments(state))
    encoder = cast(ConvNeXtEncoder, network.encoder)
    mean, std = (encoder.mean, encoder.std) if options.input == "rgb" else (None, None)
    converted = conversion.convert_authors(state, network, path=options.source, mean=mean, std=std)
    return converted, network.network_config()


if __name__ == "__main__":
    sys.exit(main())
