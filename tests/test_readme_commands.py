# SPDX-License-Identifier: Apache-2.0
"""The README's commands run, each made small and kept out of the checkout."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--encoder", "test_convnext", "--decoder_channels", "16", "--num_workers", "0"]

pytestmark = pytest.mark.slow


def readme_command(start: str, **replaced: Path) -> list[str]:
    """The README's first command that starts so, as words, with other folders in place of those that it names."""
    found = re.findall(rf"^(?:.* && )?({re.escape(start)}.*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert found, f"README.md has no command that starts with {start}"
    line = str(found[0])
    for name, path in replaced.items():
        line = line.replace(name.replace("__", "/"), str(path))
    return shlex.split(line)


def run(words: list[str], *options: str | Path) -> str:
    """What the command prints; it runs in the checkout, as the README has it."""
    assert words[0] == "python"
    command = [sys.executable, *words[1:], *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def lesion(path: Path, *, seed: int, radius: int) -> None:
    """An image of random texture with a dark disk, and its mask beside it."""
    rng = np.random.default_rng(seed)
    shapes, texture = (Image.fromarray(rng.integers(60, 256, (n, n), np.uint8)).resize((96, 72)) for n in (8, 32))
    image, mask = Image.blend(shapes, texture, 0.5), Image.new("L", (96, 72))
    x, y = (int(v) for v in rng.integers((25, 25), (71, 47)))
    for picture, value in ((image, 10), (mask, 255)):
        ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    mask.save(path.with_name(f"{path.stem}_mask.png"))


def test_first_command(tmp_path: Path) -> None:
    phantom, models, out = tmp_path / "phantom", tmp_path / "models", tmp_path / "run"
    text = run(
        readme_command("python -m monai.bundle run training --config_file configs/train.yaml"),
        *("--max_epochs", "1", "--samples_per_epoch", "32", "--phantom_patients", "15"),
        *("--dataset_dir", phantom, "--datalist#phantom_dir", phantom, "--ckpt_dir", models, "--output_dir", out),
    )
    written = [models / "model.pt", out / "metrics.csv", out / "tensorboard", out / "contact_sheet.png"]
    assert all(path.exists() for path in written)
    assert [line.rsplit(": ")[-1] for line in text.splitlines() if ": /" in line][-4:] == list(map(str, written))
    assert re.search(r"val_dice 0\.\d+, val_auroc 0\.\d+", text)


def test_own_data_from_list_to_predictions(tmp_path: Path) -> None:
    busi, data = tmp_path / "Dataset_BUSI_with_GT", tmp_path / "mine"
    for seed, name in enumerate(["normal", "benign", "malignant"] * 6):
        radius = {"normal": 0, "benign": 10, "malignant": 20}[name]
        lesion(busi / name / f"{name} ({seed}).png", seed=seed, radius=radius)
    options: list[str | Path] = [*SMALL, "--ckpt_dir", tmp_path / "models", "--output_dir"]
    train = "python -m monai.bundle run training --config_file configs/train.yaml --dataset_dir data/mine"

    run(readme_command("python scripts/prepare_data.py", Dataset_BUSI_with_GT=busi, data__mine=data))
    run(readme_command(train, data__mine=data), *options, tmp_path / "run", "--max_epochs", "2")
    resumed = readme_command(f"{train} --resume true", data__mine=data)
    assert "resumed" in run(resumed, *options, tmp_path / "run", "--max_epochs", "2")
    with (tmp_path / "run/metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]

    pretrain = readme_command("python -m monai.bundle run pretraining", data__mine=data)
    small = ["--encoder", "test_convnext", "--num_workers", "0", "--max_epochs", "1", "--image_size", "64"]
    run(pretrain, *small, "--output_dir", tmp_path / "pretrain")
    start = {"data__mine": data, "runs__pretrain": tmp_path / "pretrain"}
    text = run(
        readme_command(f"{train} --encoder_weights", **start),
        *(*SMALL, "--ckpt_dir", tmp_path / "other", "--output_dir", tmp_path / "from", "--max_epochs", "1"),
    )
    assert "encoder test_convnext starts from" in text

    evaluate = "python -m monai.bundle run --config_file \"['configs/train.yaml','configs/evaluate.yaml']\""
    run(readme_command(evaluate, data__mine=data), *options, tmp_path / "eval")
    assert "| BUSI | lesion |" in (tmp_path / "eval/results.md").read_text("utf-8")

    predict = "python -m monai.bundle run --config_file configs/inference.yaml"
    run(readme_command(predict, IMAGES=busi), *options, tmp_path / "out")
    images = json.loads((tmp_path / "out/predictions.json").read_text("utf-8"))["images"]
    assert len(images) == 18  # the masks beside them are left out
    assert {tuple(image["classes"]) for image in images} == {("breast",)}
    with Image.open(tmp_path / "out" / images[0]["mask"]) as mask:
        assert mask.size == (96, 72)
