# SPDX-License-Identifier: Apache-2.0
"""From the inference config to a segmenter: the config stays the one place of the network and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from bundle.live.pictures import cv2
from bundle.live.segmenter import FrameSegmenter, Letterbox
from bundle.networks.weights import load_network
from bundle.transforms.seeing.view import VIEW_OPTIONS, Viewer
from bundle.transforms.spacing import told_spacing
from bundle.vocabulary import REQUESTED_PROMPTS, switch


def build_segmenter(
    bundle_root: str | Path,
    *,
    prompts: Mapping[str, str | None] | None = None,
    window: int = 1,
    **changes: Any,
) -> FrameSegmenter:
    """The segmenter that a bundle's configs/inference.yaml describes, with its network or exported model loaded.

    Args:
        bundle_root: folder with ``configs`` and ``models``.
        prompts: position, nature, task; None or absent is the config's.
        window: frames of the vote; 1 is none.
        changes: ids of the config, such as ``ckpt_path`` and ``runtime`` -> other values; None is the config's.

    Raises:
        FileNotFoundError: when the weights or the exported model are not there.
        ImportError: when the runtime's or OpenCV's package is not installed.
        ValueError: when weights, model, prompts or window do not fit.
    """
    cv2.setNumThreads(1)  # its threads and the network's would fight for the cores
    parser = ConfigParser(ConfigParser.load_config_file(str(Path(bundle_root) / "configs" / "inference.yaml")))
    given = {name: value for name, value in changes.items() if value is not None}
    parser.update({"bundle_root": str(bundle_root), "device": torch.device("cpu"), "lanes": 1, **given})
    get = parser.get_parsed_content
    asked: dict[str, str] = {name: (prompts or {}).get(name) or get(name) for name in REQUESTED_PROMPTS}
    segmenter = FrameSegmenter(
        load_runtime(parser, asked["position"]),
        inferer=get("inferer"),
        letterbox=Letterbox(get("image_size"), mean=get("image_mean"), std=get("image_std")),
        records=get("records"),
        prompts=asked,
        positions=get("positions"),
        window=window,
        spacing=told_spacing(get("spacing")),
        viewer=Viewer(**{name: get(name) for name in VIEW_OPTIONS}),
        check_images=switch(get("check_images"), "check_images"),
    )
    segmenter.values(np.zeros((segmenter.letterbox.size,) * 2, np.uint8))  # the first pass is slow: runtimes compile
    return segmenter


def load_runtime(parser: ConfigParser, position: str) -> Any:
    """What has ``predict``: the network with its weights, or an exported model.

    Raises:
        ImportError, OSError, ValueError: see ``bundle.engines.runtimes`` and ``bundle.networks.weights``; and for a
            position of which it reports nothing.
    """
    try:
        network = parser.get_parsed_content("runtime_network")
    except RuntimeError as error:  # MONAI's around the component's own
        if isinstance(error.__cause__, (ImportError, OSError, ValueError)):
            raise error.__cause__ from None
        raise
    points = parser.get_parsed_content("organ_points") or ()
    if text := parser.get_parsed_content("vocabulary").unanswered([position], points):
        raise ValueError(f"position: {text}")
    if parser.get_parsed_content("runtime") == "torch":
        load_network(network, parser.get_parsed_content("ckpt_path"))
        return network.eval().to(memory_format=torch.channels_last)
    if parser.get_parsed_content("runtime") != "torchscript":
        torch.set_num_threads(1)  # as for OpenCV
    return network
