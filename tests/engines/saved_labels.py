# SPDX-License-Identifier: Apache-2.0
"""Labels that a MONAI Label server has saved, and the weights that it serves."""

import shutil
from pathlib import Path

TRAIN = str(Path(__file__).resolve().parents[2] / "configs/train.yaml")
NAMES = [f"study{i}" for i in range(6)]
NO_ORGAN = {"tasks#organ#_disabled_": True}
"""From random weights, labels without a position leave the organ's head as it starts, and it decides what is shown."""


def serve(weights: Path, folder: Path) -> None:
    (folder / "models").mkdir(exist_ok=True)
    shutil.copy(weights, folder / "models/model.pt")
