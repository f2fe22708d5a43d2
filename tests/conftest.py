# SPDX-License-Identifier: Apache-2.0
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TRAIN = str(ROOT / "configs/train.yaml")


@pytest.fixture(scope="session", autouse=True)
def _strict_configs() -> Iterator[None]:
    """A key that is twice in a config is an error, also in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real ultrasound: ULTRASOUND_DATA, by default ../shared/ultrasound beside the repository."""
    folder = Path(os.environ.get("ULTRASOUND_DATA") or ROOT.parent / "shared" / "ultrasound")
    if not folder.is_dir():
        pytest.skip(f"no real ultrasound in {folder}; set ULTRASOUND_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small network in the layout of models/model.pt."""
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    parser.update({"encoder": "test_convnext", "decoder_channels": 16})
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save({"model": network.state_dict(), "network_config": network.network_config()}, path)
    return path


TINY_SETS: dict[str, dict[str, Any]] = {
    "Breast": {
        "position": "breast",
        "nature": "tumor",
        "mask_values": {"0": "background", "255": "lesion"},
        "label_set": "breast",
        "classes": ["normal", "benign", "malignant"],
    },
    "Limb": {
        "position": "limb",
        "nature": "organ",
        "mask_values": {"0": "background", "1": "nerve", "2": "vessel"},
    },
    "Lung": {
        "position": "lung",
        "nature": "organ",
        "label_set": "lung",
        "classes": ["healthy", "pneumonia", "covid-19"],
    },
}
"""Masks and classes, masks alone, classes alone."""


def _tiny_item(folder: Path, *, dataset: str, number: int, split: str, random: np.random.Generator) -> dict[str, Any]:
    entry, name = TINY_SETS[dataset], f"{dataset}{number}"
    image = random.integers(0, 90, (40 + 4 * (number % 3), 56), np.uint8)
    item = {"image": f"{name}.png", "dataset": dataset, "patient": name, "group": name, "split": split}
    if "classes" in entry:
        item["class"] = entry["classes"][number % 3]
    if "mask_values" in entry:
        mask = np.zeros_like(image)
        values = [int(v) for v in entry["mask_values"]][1:]
        if item.get("class") != "normal":
            top, left = random.integers(4, 16, 2)
            image[top : top + 20, left : left + 24] += 120
            mask[top : top + 20, left : left + 24] = values[number % len(values)]
        item["label"] = f"{name}_mask.png"
        Image.fromarray(mask).save(folder / item["label"])
    Image.fromarray(image).save(folder / item["image"])
    return item


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with datalist.json: 12 training, 4 validation and 4 test images of 40 to 48 x 56 pixels, three sets."""
    folder, random = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    plan = {"Breast": "ttttttvvveee", "Limb": "ttttve", "Lung": "tt"}
    splits = {"t": "train", "v": "val", "e": "test"}
    items = [
        _tiny_item(folder, dataset=dataset, number=number, split=splits[letter], random=random)
        for dataset, letters in plan.items()
        for number, letter in enumerate(letters)
    ]
    split = {"seed": 0, "fractions": {}, "folds": None, "given": False, "near_duplicates": 0, "leaks": []}
    manifest = {"version": 1, "root": ".", "datasets": TINY_SETS, "split": {**split, "leaks_accepted": False}}
    (folder / "datalist.json").write_text(json.dumps({**manifest, "items": items}))
    return folder


@pytest.fixture(scope="session")
def tiny_options(tiny_data: Path) -> Callable[..., dict[str, Any]]:
    """Gives config ids for a training of seconds, two epochs of three batches, to folder/run and folder/models."""

    def options(folder: Path, **changes: Any) -> dict[str, Any]:
        return {
            "bundle_root": str(ROOT),
            "dataset_dir": str(tiny_data),
            "output_dir": str(folder / "run"),
            "ckpt_dir": str(folder / "models"),
            "cache_dir": str(folder / "cache"),
            "encoder": "test_convnext",
            "decoder_channels": 16,
            "image_size": 64,
            "batch_size": 4,
            "num_workers": 0,
            "num_threads": 1,
            "max_epochs": 2,
            **changes,
        }

    return options


@pytest.fixture(scope="session")
def training_command(tiny_options: Callable[..., dict[str, Any]]) -> Callable[..., list[str]]:
    """Gives the command line of such a training with the shipped train.yaml and overlays."""

    def command(folder: Path, *overlays: str, **changes: Any) -> list[str]:
        files = str([TRAIN, *overlays]) if overlays else TRAIN
        arguments = ["-m", "monai.bundle", "run", "training", "--config_file", files]
        for name, value in tiny_options(folder, **changes).items():
            arguments += [f"--{name}", str(value)]
        return [sys.executable, *arguments]

    return command


@pytest.fixture
def run_training(tiny_options: Callable[..., dict[str, Any]]) -> Iterator[Callable[..., None]]:
    """The same training in this process, as MONAI Label calls it."""
    from monai.bundle import run

    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    def train(folder: Path, *overlays: str, run_id: str = "training", **changes: Any) -> None:
        try:
            run(run_id, config_file=[TRAIN, *overlays], logging_file=False, **tiny_options(folder, **changes))
        finally:
            for worker in multiprocessing.active_children():  # collected as garbage, a loader waits 5 s for each
                worker.terminate()

    yield train
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reasons() -> Callable[[BaseException], str]:
    """Gives the messages of an error and of what caused it: MONAI wraps the errors of components in its own."""

    def messages(error: BaseException | None) -> str:
        found = []
        while error is not None:
            found.append(str(error))
            error = error.__cause__
        return "\n".join(found)

    return messages
