# SPDX-License-Identifier: Apache-2.0
"""The workflows on a GPU, which the configs take where there is one: tensors of two devices must not meet."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU with CUDA on this machine")
def test_training_evaluation_clicks_and_inference_run(
    training_command: Callable[..., list[str]],
    tiny_options: Callable[..., dict[str, Any]],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    def run(command: list[str]) -> None:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]

    run(training_command(tmp_path, interaction_prob=1.0))
    options = tiny_options(tmp_path)
    del options["max_epochs"]
    for overlay, changes in (("evaluate", {"split": "val"}), ("evaluate_clicks", {"split": "val", "max_clicks": 2})):
        files = str([str(CONFIGS / name) for name in ("train.yaml", f"{overlay}.yaml")])
        given = {**options, **changes, "output_dir": str(tmp_path / overlay)}
        arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        run([sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *arguments])
    kept = ("bundle_root", "ckpt_dir", "encoder", "decoder_channels", "image_size")
    arguments = [word for name in kept for word in (f"--{name}", str(options[name]))]
    arguments += ["--dataset_dir", str(tiny_data), "--output_dir", str(tmp_path / "out")]
    run([sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / "inference.yaml"), *arguments])
    assert (tmp_path / "out/predictions.json").is_file()
