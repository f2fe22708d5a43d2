# SPDX-License-Identifier: Apache-2.0
"""Trainings of which parts stay as they start."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from bundle.networks.weights import load_network, read_file

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Train = Callable[..., None]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_file(path)["model"]
    return state


def test_prompt_tuning_changes_prompts_alone(run_training: Train, tmp_path: Path) -> None:
    run_training(tmp_path, norm="batch", max_epochs=1)
    start = tmp_path / "start.pt"
    (tmp_path / "models/model.pt").rename(start)
    run_training(
        tmp_path,
        str(CONFIGS / "prompt_tuning.yaml"),
        norm="batch",
        start_weights=str(start),
        output_dir=str(tmp_path / "tuned"),
    )
    before, after = weights(start), weights(tmp_path / "models/model.pt")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} == {"prompter"}


def test_a_run_goes_on_with_the_parts_that_were_frozen(
    run_training: Train, tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    frozen = str(CONFIGS / "frozen_encoder.yaml")
    run_training(tmp_path, frozen, max_epochs=1)
    with pytest.raises(RuntimeError) as error:
        run_training(tmp_path, max_epochs=1, resume=True)
    assert "frozen: run has " in reasons(error.value)


def test_another_encoder_is_trained_and_found_again_by_its_weights(run_training: Train, tmp_path: Path) -> None:
    run_training(tmp_path, encoder="test_efficientnet", max_epochs=1)
    parser = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "inference.yaml")))
    parser.update({"bundle_root": str(CONFIGS.parent), "ckpt_path": str(tmp_path / "models/model.pt")})
    network = parser.get_parsed_content("network_def")
    config = load_network(network, tmp_path / "models/model.pt")
    assert (config["encoder"], network.encoder.name) == ("test_efficientnet", "test_efficientnet")
    assert network.guidance_channels == 2
