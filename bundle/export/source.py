# SPDX-License-Identifier: Apache-2.0
"""What is exported: a checkpoint's network, with the config that says how its images are made and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from bundle.engines.held import describe
from bundle.failures import reason
from bundle.networks import UPerConvNeXt
from bundle.networks.weights import load_network


@dataclass(frozen=True)
class Source:
    """A trained network and its surroundings.

    Attributes:
        network: eager, in eval mode, on the CPU.
        weights: its checkpoint.
        config: the config with the checkpoint's tables (structures, label sets, positions).
    """

    network: UPerConvNeXt
    weights: Path
    config: ConfigParser

    def value(self, name: str) -> Any:
        """A resolved id of the config."""
        return self.config.get_parsed_content(name)


def load_source(
    weights: str | Path, *, config_files: Sequence[str | Path], datalist: str | Path | None = None, workers: int = 1
) -> Source:
    """Builds the network that a checkpoint was made with, and loads it.

    Args:
        weights: checkpoint of this project, such as ``models/model.pt``.
        config_files: ``configs/train.yaml`` and the overlays that the network was trained with.
        datalist: manifest of the images for calibration and comparison; None: the config's own.
        workers: loader processes.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when the file is no checkpoint of this project, or the config's tables do not fit it.
    """
    for file in config_files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"config must be a file, got {file}, which is none; correct --config.")
    told = describe(weights, otherwise=config_files[0])
    tables = {**told, "encoder_weights": None, "dropout": 0.0, "drop_path": 0.0, "device": "cpu"}
    tables |= {"num_workers": workers}
    held = tables.pop("heads")
    files = [str(file) for file in config_files]
    config = ConfigParser(ConfigParser.load_config_files(files), globals={"checkpoint": {**tables, "heads": held}})
    config.update({name: f"$checkpoint[{name!r}]" for name in tables})  # what a file says is no part of the config
    config["declared#held"] = "$checkpoint['heads']"
    config["bundle_root"] = str(Path(config_files[0]).resolve().parents[1])
    if datalist is not None:
        if not Path(datalist).is_file():
            raise FileNotFoundError(f"datalist must be a file, got {datalist}, which is none; correct --datalist.")
        config["datalist"] = str(datalist)
    try:
        network = config.get_parsed_content("network_def")
    except Exception as error:  # whatever a description does to the network's parts
        raise ValueError(
            f"{weights}: network_config must describe a network that can be built, got one that fails: {reason(error)} "
            "(--config must name the overlays that it was trained with)"
        ) from error
    load_network(network, weights)
    return Source(network=network.eval(), weights=Path(weights), config=config)
