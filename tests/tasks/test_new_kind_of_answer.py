# SPDX-License-Identifier: Apache-2.0
"""A new kind of answer is one class and one block of a config: it trains, is scored, exported, written and served."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import decollate_batch
from PIL import Image
from torch import Tensor, nn

from bundle.engines.runtimes import SUFFIXES
from bundle.export import Exporter, load_source
from bundle.geometry import Geometry
from bundle.metrics import Row, item_origin, mean_estimate, number, table
from bundle.networks.heads import VectorHead
from bundle.networks.weights import read_file
from bundle.tables import read_table
from bundle.tasks import Asked, Target, Task, Widths

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


class Brightness(Task):
    """The mean gray of an image, in [0, 1]."""

    name = section = group = "brightness"
    headline = ("brightness",)
    schema: Mapping[str, Any] = {"brightness": {"description": "the image's mean gray, 0 to 1", "type": "number"}}

    def target(self, item: Mapping[str, Any]) -> Tensor:
        value = item.get("brightness")
        return torch.tensor([math.nan if value is None else float(value)])

    def build(self, widths: Widths) -> nn.Module:
        return VectorHead(widths.feature, ["brightness"], plain=True)

    def loss(self, logits: Tensor, target: Target) -> Tensor:
        return (logits.float().sigmoid() - target).square().sum()

    def activate(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> float:
        return float(values[self.name][0])

    def blank(self) -> dict[str, Any]:
        return {"brightness": None}

    def record(self, found: float | None, place: Geometry) -> dict[str, Any]:
        return {"brightness": None if found is None else round(found, 6)}

    def rows(self, found: float, item: Mapping[str, Any]) -> list[Row]:
        truth = float(item["targets"][self.name][0])
        row = {**item_origin(item), "truth": truth, "found": found, "deviation": abs(found - truth)}
        return [row] if math.isfinite(truth) else []

    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        return {"brightness": {"all": 1 - sum(row["deviation"] for row in rows) / len(rows)}} if rows else {}

    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        values, groups = [row["deviation"] for row in rows], [row["group"] for row in rows]
        mean = mean_estimate(values, groups, resamples=resamples, seed=seed)
        return [{"images": len(rows), "deviation": mean}] if rows else []

    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        return table(["Images", "Deviation"], [[str(e["images"]), number(e["deviation"])] for e in entries])


OVERLAY = f"tasks#brightness:\n  _target_: {__name__}.Brightness\n"


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "brightness.yaml"
    path.write_text(OVERLAY)
    return path


@pytest.fixture(scope="module")
def data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data with the mean gray of all images but one, and one set that has nothing else."""
    folder, manifest = tmp_path_factory.mktemp("bright"), json.loads((tiny_data / "datalist.json").read_text())
    for item in manifest["items"]:
        item["brightness"] = float(np.asarray(Image.open(tiny_data / item["image"])).mean() / 255)
    del manifest["items"][0]["brightness"]
    for number_, level in enumerate((20, 90, 160, 230)):
        Image.new("L", (56, 40), level).save(folder / f"plain{number_}.png")
        item = {"image": str(folder / f"plain{number_}.png"), "dataset": "Plain", "patient": f"plain{number_}"}
        item |= {"group": item["patient"], "split": "test" if number_ == 3 else "train", "brightness": level / 255}
        manifest["items"].append(item)
    manifest["datasets"]["Plain"] = {"position": "unknown", "nature": "organ"}
    manifest["root"] = str(tiny_data)
    (folder / "datalist.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def trained(
    data: Path, overlay: Path, tiny_options: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of one epoch of the shipped training with the block."""
    from monai.bundle import run

    folder = tmp_path_factory.mktemp("trained")
    files, options = [str(CONFIGS / "train.yaml"), str(overlay)], {"dataset_dir": str(data), "max_epochs": 1}
    run("training", config_file=files, logging_file=False, **tiny_options(folder, **options))
    return folder


@pytest.fixture(scope="module")
def weights(trained: Path) -> Path:
    return trained / "models/model.pt"


def test_it_trains_and_counts_in_the_score_of_the_validation(trained: Path, weights: Path) -> None:
    config = read_file(weights)["network_config"]
    assert config["heads"]["brightness"] == ["brightness"]
    (epoch,) = csv.DictReader((trained / "run/metrics.csv").open())
    assert float(epoch["val_brightness"]) == float(epoch["val_brightness_all"]) > 0.5
    means = [float(epoch[key]) for key in ("val_dice", "val_auroc", "val_brightness") if epoch.get(key)]
    assert float(epoch["val_score"]) == pytest.approx(sum(means) / len(means), abs=1e-3)
    states = [read_file(trained / "run" / name) for name in ("last.pt", "best.pt")]
    moved = states[0]["network"]["heads.brightness.linear.weight"]
    assert moved.abs().sum() > 0


def test_the_loss_of_unlabeled_images_is_left_out() -> None:
    task = Brightness()
    target = torch.stack([task.target({"brightness": 0.25}), task.target({"brightness": None}), task.target({})])
    assert task.labeled(target).tolist() == [True, False, False]
    assert float(task.loss(torch.zeros(1, 1), target[:1])) == pytest.approx(0.0625)  # (0.5 - 0.25)^2


@pytest.fixture(scope="module")
def evaluated(
    data: Path, overlay: Path, weights: Path, tiny_options: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """What the shipped evaluation writes."""
    from monai.bundle import run

    folder = tmp_path_factory.mktemp("evaluated")
    files = [str(CONFIGS / "train.yaml"), str(overlay), str(CONFIGS / "evaluate.yaml")]
    options = {"dataset_dir": str(data), "ckpt_path": str(weights), "bootstrap_resamples": 20}
    run("run", config_file=files, logging_file=False, **tiny_options(folder, **options))
    return folder / "run"


def test_an_evaluation_has_its_rows_its_summary_and_its_table(evaluated: Path) -> None:
    rows = read_table(evaluated / "per_image_brightness.csv")
    assert len(rows) == 5  # of the test split
    assert {row["dataset"] for row in rows} == {"Breast", "Limb", "Plain"}
    plain = next(row for row in rows if row["dataset"] == "Plain")
    assert float(plain["truth"]) == pytest.approx(230 / 255, abs=1e-6)
    deviations = [abs(float(row["found"]) - float(row["truth"])) for row in rows]
    assert [float(row["deviation"]) for row in rows] == pytest.approx(deviations, abs=1e-6)
    summary = json.loads((evaluated / "summary.json").read_text())
    (entry,) = summary["brightness"]
    assert entry["deviation"]["value"] == pytest.approx(sum(deviations) / 5, abs=1e-6)
    assert summary["means"]["brightness"] == pytest.approx(1 - sum(deviations) / 5, abs=1e-6)
    text = (evaluated / "results.md").read_text()
    assert "\n## Brightness\n\n| Images | Deviation |\n| --- | --- |\n| 5 | " in text


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, top in (("dark", 60), ("light", 250)):
        Image.fromarray(random.integers(0, top, (40, 70), np.uint8)).save(folder / f"{name}.png")
    Image.new("L", (70, 40), 128).save(folder / "gray.png")  # no ultrasound
    return folder


@pytest.fixture(scope="module")
def infer(images: Path, overlay: Path) -> Callable[..., Path]:
    """Runs the shipped inference with the block; gives the results' folder."""

    def run(out: Path, **options: Any) -> Path:
        workflow = ConfigWorkflow(
            workflow_type="infer", config_file=[str(CONFIGS / "inference.yaml"), str(overlay)], meta_file=None,
            logging_file=False, bundle_root=str(ROOT), dataset_dir=str(images), output_dir=str(out), num_workers=0,
            **options,
        )  # fmt: skip
        workflow.initialize()
        workflow.run()
        return out

    return run


def answers(folder: Path) -> dict[str, Any]:
    """Image -> brightness, of predictions.json, which predictions.csv repeats."""
    found = {e["file"]: e["brightness"] for e in json.loads((folder / "predictions.json").read_text())["images"]}
    rows = {row["file"]: row["brightness"] for row in read_table(folder / "predictions.csv")}
    assert rows == {file: "" if value is None else str(value) for file, value in found.items()}
    return found


def test_it_stands_in_the_tables_and_every_runtime_gives_the_same(
    infer: Callable[..., Path], weights: Path, overlay: Path, tmp_path: Path
) -> None:
    expected = answers(infer(tmp_path / "torch", ckpt_path=str(weights)))
    assert 0 < expected["dark.png"] < 1
    assert 0 < expected["light.png"] < 1
    assert expected["dark.png"] != expected["light.png"]
    assert expected["gray.png"] is None
    source = load_source(weights, config_files=[CONFIGS / "train.yaml", overlay], workers=0)
    exporter = Exporter(source, output_dir=tmp_path / "exports", threads=1)
    for runtime in ("torchscript", "onnx"):
        assert exporter.export(runtime, "float32").error == ""
        model = str(tmp_path / f"exports/model_float32{SUFFIXES[runtime]}")
        found = answers(infer(tmp_path / runtime, runtime=runtime, model_path=model, ckpt_path="/nowhere.pt"))
        assert found == {k: v if v is None else pytest.approx(v, abs=1e-5) for k, v in expected.items()}


def test_weights_without_it_are_not_asked(infer: Callable[..., Path], tmp_path: Path) -> None:
    """The shipped weights know nothing of it; the block does no harm."""
    out = infer(tmp_path / "out", ckpt_path=str(ROOT / "models/model.pt"))
    assert "brightness" not in json.loads((out / "predictions.json").read_text())["images"][0]


def test_monai_labels_way_of_calling_gives_it(
    infer: Callable[..., Path], images: Path, overlay: Path, weights: Path, tmp_path: Path
) -> None:
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "inference.yaml"), str(overlay)]))
    parser.update({"bundle_root": str(ROOT), "ckpt_path": str(weights), "device": "cpu"})
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(read_file(weights)["model"])
    path = str(images / "dark.png")
    item = parser.get_parsed_content("preprocessing")({"image": path, "image_path": path, "position": "breast"})
    with torch.no_grad():
        outputs = parser.get_parsed_content("inferer")(item["image"][None], network.eval())
    item["pred"] = decollate_batch(outputs)[0]
    result = parser.get_parsed_content("postprocessing")(item)["result"]
    assert json.loads(json.dumps(result))["brightness"] == pytest.approx(
        answers(infer(tmp_path / "out", ckpt_path=str(weights)))["dark.png"], abs=1e-5
    )
