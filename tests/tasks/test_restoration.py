# SPDX-License-Identifier: Apache-2.0
"""A network that restores: it trains, is scored beside what was degraded, and writes images only when asked."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import run
from monai.data import MetaTensor
from PIL import Image

from bundle.geometry import Geometry
from bundle.metrics.restoration import contrast, restoration_row
from bundle.networks.weights import read_file
from bundle.tables import read_table
from bundle.tasks import Asked, Restoration
from bundle.tasks.restoration import restored
from bundle.transforms import RandDegradeUltrasoundd
from tests.pretraining.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
Make = Callable[..., dict[str, Any]]


def test_the_target_is_the_clean_and_the_degraded_image() -> None:
    task, label = Restoration(), torch.zeros(1, 4, 6)
    item = {"label": label, "clean": torch.rand(3, 4, 6), "degraded": torch.rand(1, 4, 6)}
    target = task.target(item)
    assert torch.equal(target, torch.stack([item["clean"].mean(0), item["degraded"][0]]))
    batch = torch.stack([target, task.target({"label": label})])
    assert task.labeled(batch).tolist() == [True, False]
    assert task.shrink(batch, 0.5, (2, 3)).shape == (2, 2, 2, 3)


def test_the_right_correction_costs_nothing() -> None:
    task, target = Restoration(), torch.rand(3, 2, 16, 16)
    right = target[:, :1] - target[:, 1:]
    assert float(task.loss(right, target)) == pytest.approx(0.0, abs=1e-5)
    nothing = float(task.loss(torch.zeros_like(right), target))
    assert float(task.loss(right / 2, target)) < nothing
    shifted = right + torch.tensor([0.0, 0.1, 0.0]).view(3, 1, 1, 1)
    plain = Restoration(ssim_weight=0.0)
    assert float(plain.loss(shifted, target)) == pytest.approx(0.1, abs=1e-5)


def test_a_correction_lands_on_the_images_own_grid() -> None:
    place = Geometry((30, 60), 32)
    square = torch.zeros(1, 32, 32)
    square[0, place.window[0], place.window[1]] = torch.linspace(-0.5, 0.5, 32)
    found = Restoration().decode({"restore": square}, place, Asked())
    assert found.shape == (30, 60)
    assert torch.allclose(found[:, [0, -1]].mean(0), torch.tensor([-0.5, 0.5]), atol=0.02)
    picture = restored(np.full((30, 60, 3), 0.75, np.float32), found)
    assert picture.shape == (30, 60, 3)
    assert (picture.min(), picture.max()) == (pytest.approx(0.25, abs=0.02), 1.0)


def test_contrast_of_a_disk_against_its_ring() -> None:
    rows, columns = np.mgrid[:100, :100]
    mask = (rows - 50) ** 2 + (columns - 50) ** 2 <= 20**2
    random = np.random.default_rng(0)
    image = np.where(mask, 0.3, 0.6) + random.normal(0, 0.1, mask.shape)
    found = contrast(image, mask)
    assert found["cnr"] == pytest.approx(0.3 / math.sqrt(2 * 0.1**2), rel=0.1)
    assert found["gcnr"] == pytest.approx(math.erf(0.15 / 0.1 / math.sqrt(2)), abs=0.05)  # of two equal Gaussians
    assert contrast(image, np.zeros_like(mask)) == {"cnr": None, "gcnr": None}
    assert contrast(image, np.ones_like(mask)) == {"cnr": None, "gcnr": None}


def test_psnr_is_of_the_mean_squared_error() -> None:
    clean = np.full((20, 20), 0.5, np.float32)
    item: dict[str, Any] = {"dataset": "A", "patient": "p", "group": "p", "label": torch.zeros(1, 20, 20)}
    item["image"] = MetaTensor(torch.zeros(1), meta={"filename_or_obj": "a.png"})
    row = restoration_row("degraded", clean + 0.1, clean, item)
    assert row["psnr"] == pytest.approx(20.0, abs=1e-4)
    assert (row["method"], row["cnr"], row["dataset"]) == ("degraded", None, "A")


def test_lost_lines_are_columns_and_the_same_image_loses_the_same() -> None:
    degrade = RandDegradeUltrasoundd(lines_prob=1.0, by_image=True)
    one, other = torch.rand(1, 40, 200), torch.rand(1, 40, 200)
    found = degrade({"image": one})["image"]
    kept = (found / one).mean((0, 1))
    assert torch.allclose(found, one * kept, atol=1e-6)
    assert 0.01 < float((kept < 0.9).float().mean()) < 0.2
    degrade({"image": other})
    assert torch.equal(degrade({"image": one})["image"], found)


@pytest.fixture(scope="module")
def trained(tiny_options: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a short training of the shipped overlay."""
    folder = tmp_path_factory.mktemp("restore")
    files = [str(CONFIGS / "train.yaml"), str(CONFIGS / "restore.yaml")]
    options = {"max_epochs": 2, "learning_rate": 0.01}
    run("training", config_file=files, logging_file=False, **tiny_options(folder, **options))
    return folder


def weights(trained: Path) -> Path:
    (found,) = trained.rglob("models/model.pt")
    return found


def test_it_trains_on_any_image_and_counts_in_the_score(trained: Path) -> None:
    held = read_file(weights(trained))
    assert held["network_config"]["heads"] == {"restore": ["gray"]}
    assert float(held["model"]["heads.restore.classifier.weight"].abs().sum()) > 0
    *_, epoch = csv.DictReader((trained / "run/metrics.csv").open())
    assert 0 < float(epoch["val_ssim"]) == float(epoch["val_score"]) < 1
    assert {name for name in epoch if name.startswith("val_ssim_")} == {"val_ssim_Breast", "val_ssim_Limb"}


def test_an_evaluation_compares_with_the_degraded_image(trained: Path, tiny_options: Make, tmp_path: Path) -> None:
    files = [str(CONFIGS / f"{name}.yaml") for name in ("train", "evaluate", "restore")]
    options = {"ckpt_path": str(weights(trained)), "bootstrap_resamples": 20}
    run("run", config_file=files, logging_file=False, **tiny_options(tmp_path, **options))
    (table,) = tmp_path.rglob("per_image.csv")
    rows = read_table(table)
    assert {row["method"] for row in rows} == {"degraded", "restored"}
    entries = json.loads((table.parent / "summary.json").read_text())["restoration"]
    assert {(e["dataset"], e["method"]) for e in entries} >= {("Breast", "degraded"), ("Breast", "restored")}
    assert (
        "| Data set | Method | Images | PSNR in dB | SSIM | CNR | gCNR |" in (table.parent / "results.md").read_text()
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    Image.fromarray(random.integers(0, 90, (40, 70), np.uint8)).save(folder / "gray.png")
    Image.fromarray(random.integers(0, 90, (40, 70, 3), np.uint8)).save(folder / "color.png")
    return folder


def infer(images: Path, out: Path, **options: Any) -> dict[str, Any]:
    run(
        "run", config_file=str(CONFIGS / "inference.yaml"), logging_file=False, bundle_root=str(ROOT),
        dataset_dir=str(images), output_dir=str(out), num_workers=0, **options,
    )  # fmt: skip
    content: dict[str, Any] = json.loads((out / "predictions.json").read_text())
    return {entry["file"]: entry for entry in content["images"]}


def test_images_are_restored_when_asked_and_say_so(trained: Path, images: Path, tmp_path: Path) -> None:
    ckpt = str(weights(trained))
    found = infer(images, tmp_path / "asked", ckpt_path=ckpt, task="restore", check_images=False)
    assert found["gray.png"]["restored"] == "gray_restored.png"
    assert "altered by a network" in found["gray.png"]["notes"]
    for name, mode in (("gray", "L"), ("color", "RGB")):
        picture = Image.open(tmp_path / f"asked/{name}_restored.png")
        assert (picture.mode, picture.size) == (mode, (70, 40))
        assert picture.info["Comment"].startswith("Altered: restored by a network")
        before = np.asarray(Image.open(images / f"{name}.png")).astype(int)
        changed = np.asarray(picture).astype(int) - before
        assert changed.any()
        if mode == "RGB":  # no channel reaches an end, so all change alike
            inner = (np.asarray(picture) > 0).all(2)
            assert (np.ptp(changed, axis=2)[inner] == 0).all()


def test_restored_images_are_not_predicted_again(trained: Path, images: Path) -> None:
    """A second run over results beside their images; restoring again would add correction to correction."""
    ckpt = str(weights(trained))
    for _ in range(2):
        found = infer(images, images, ckpt_path=ckpt, task="restore", check_images=False)
        assert set(found) == {"gray.png", "color.png"}
    assert (images / "gray_restored.png").is_file()


def test_nothing_is_restored_unless_asked(
    images: Path, tmp_path: Path, reasons: Callable[[BaseException], str]
) -> None:
    found = infer(images, tmp_path / "plain")
    assert "restored" not in found["gray.png"]
    assert not list((tmp_path / "plain").glob("*_restored.png"))
    with pytest.raises(RuntimeError) as error:
        infer(images, tmp_path / "asked", task="restore")
    assert "--task restore expects weights that restore, got weights of ['seg'," in reasons(error.value)


def test_filters_are_compared_on_the_same_degraded_images(
    trained: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load_script("compare_restoration").main
    options = ["--weights", str(weights(trained)), "--dataset_dir", str(tiny_data), "--resamples", "20"]
    assert (
        main([*options, "--images", "1", "--tuned_on", "1", "--image_size", "64", "--output_dir", str(tmp_path)]) == 0
    )
    rows = read_table(tmp_path / "restoration.csv")
    methods = ["degraded", "restored", "median", "bilateral", "non-local means", "wavelet"]
    assert [row["method"] for row in rows] == methods * 3 * len({row["dataset"] for row in rows})
    of = {(row["degradation"], row["method"]): float(row["psnr"]) for row in rows if row["dataset"] == "Breast"}
    assert all(psnr < 60 for psnr in of.values())
    assert of["lines", "degraded"] != of["haze", "degraded"]
    with Image.open(tmp_path / "restoration.png") as picture:
        assert picture.width > 2 * picture.height
    text = (tmp_path / "restoration.md").read_text()
    assert "## Speckle\n\nParameters: median radius " in text
    assert main([*options, "--datasets", "Liver", "--output_dir", str(tmp_path / "b")]) == 2
    assert "--datasets must name some of ['Breast', 'Limb'], got ['Liver']" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_not_compared(
    trained: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    items = json.loads((data / "datalist.json").read_text())["items"]
    lost = [data / item["image"] for item in items if item["dataset"] == "Breast" and item["split"] in ("val", "test")]
    for path in lost[::2]:
        path.write_bytes(path.read_bytes()[:60])
    options = ["--weights", str(weights(trained)), "--resamples", "20", "--tuned_on", "1", "--image_size", "64"]
    with pytest.raises(SystemExit) as ended:
        load_script("compare_restoration").main([*options, "--dataset_dir", str(data), "--output_dir", str(tmp_path)])
    assert ended.value.code == 1
    rows = read_table(tmp_path / "restoration.csv")
    assert {row["dataset"] for row in rows} == {"Breast", "Limb"}
    assert all(float(row["psnr"]) < 60 for row in rows)
    assert not {Path(row["image"]).name for row in rows} & {path.name for path in lost[::2]}
    told = capsys.readouterr().out.partition("Not scored, because they could not be read (")[2]
    assert sum(path.name in told for path in lost[::2]) > 1


@pytest.mark.parametrize("wrong", ["weights", "folder"])
def test_a_comparison_says_what_is_wrong_in_a_line(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    folder = tiny_data if wrong == "weights" else tmp_path / "none"
    options = ["--weights", str(ROOT / "models/model.pt"), "--dataset_dir", str(folder), "--images", "1"]
    assert load_script("compare_restoration").main([*options, "--output_dir", str(tmp_path)]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("error: ")
    assert ("for weights that restore" in shown) == (wrong == "weights")
