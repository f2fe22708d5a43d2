# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from bundle.export import Export, Exporter, Source, load_source, planned

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "configs/train.yaml"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small network whose prompts and guidance act."""
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    parser.update({"encoder": "test_convnext", "decoder_channels": 16, "image_size": 64})
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    for name, parameter in network.named_parameters():
        if "prompt" in name or "guidance" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save({"model": network.state_dict(), "network_config": network.network_config()}, path)
    return path


@pytest.fixture
def source(checkpoint: Path, tiny_data: Path) -> Source:
    """That network with images of 40 to 48 x 56 pixels."""
    return load_source(checkpoint, config_files=[TRAIN], datalist=tiny_data / "datalist.json", workers=0)


@pytest.fixture(scope="session")
def exports(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Export | Path]:
    """That network's float32 models: format -> what became of it; ``folder`` -> where they are."""
    folder = tmp_path_factory.mktemp("exports")
    exporter = Exporter(load_source(checkpoint, config_files=[TRAIN], workers=0), output_dir=folder, threads=1)
    made: dict[str, Export | Path] = {"folder": folder}
    for kind, precision in planned(["torchscript", "onnx", "openvino"], ["float32"]):
        made[kind] = exporter.export(kind, precision)
    return made
