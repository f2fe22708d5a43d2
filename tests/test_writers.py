# SPDX-License-Identifier: Apache-2.0
import csv
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image
from scipy.ndimage import binary_erosion

from bundle import __version__
from bundle.transforms import DescribePredictiond
from bundle.writers import PredictionWriter, color, draw_overlay, encode_png, pictures, sha256, write_atomically

STRUCTURES = ["background", "lesion", "head"]
LABEL_SETS = {"breast": ["normal", "benign", "malignant"], "lung": ["healthy", "pneumonia"]}


def writer(tmp_path: Path, folder: str = "out") -> PredictionWriter:
    (tmp_path / "model.pt").write_bytes(b"weights")
    return PredictionWriter(
        output_dir=str(tmp_path / folder),
        structures=STRUCTURES,
        label_sets=LABEL_SETS,
        weights=str(tmp_path / "model.pt"),
        runtime="torch",
    )


def item(tmp_path: Path, file: str, **changes: Any) -> dict[str, Any]:
    """An image of 6 rows and 9 columns whose mask has 3 pixels of lesion and 4 of head."""
    path = tmp_path / "in" / file
    mask = torch.zeros(1, 6, 9, dtype=torch.uint8)
    mask[0, 0, 1:4], mask[0, 5, 5:] = 1, 2
    found = {
        "image": MetaTensor(torch.zeros(3, 8, 8), meta={"filename_or_obj": str(path)}),
        "pred": MetaTensor(mask),
        "probabilities": {"breast": torch.tensor([0.1, 0.2, 0.7]), "lung": torch.tensor([0.75, 0.25])},
        "spacing": torch.tensor([0.5, 0.2], dtype=torch.float64),
        "position": "unknown",
        "nature": "unknown",
        "task": "unknown",
        "error": "",
        "picture": np.full((6, 9, 1), 100, np.uint8),
        "place": 0,
        "file": file,
        "output": str(Path(file).with_suffix("")),
        **changes,
    }
    described = DescribePredictiond(STRUCTURES, LABEL_SETS)(found)
    return {**described, "pred": mask[0].T}  # as MONAI Label's studies lie


def run(handler: PredictionWriter, *items: dict[str, Any]) -> None:
    """An engine whose output is one written item after the other."""
    engine = Engine(lambda _, batch: [handler(one) for one in batch])
    handler.attach(engine)
    engine.run([[one] for one in items])


def test_masks_hold_indices_and_tables_hold_numbers(tmp_path: Path) -> None:
    run(writer(tmp_path), item(tmp_path, "sub/a.png"))
    out = tmp_path / "out"
    with Image.open(out / "sub/a_mask.png") as mask:
        assert mask.mode == "L"
        assert np.bincount(np.asarray(mask).ravel()).tolist() == [47, 3, 4]
        assert np.asarray(mask)[0].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0]
    with Image.open(out / "sub/a_overlay.png") as overlay:
        assert overlay.size == (9, 6)
    found = json.loads((out / "predictions.json").read_text())
    digest = sha256(tmp_path / "model.pt")
    assert found["model"] == {"version": __version__, "weights_sha256": digest, "runtime": "torch"}
    assert found["structures"][1] == {"value": 1, "name": "lesion", "color": "#e6194b"}
    (record,) = found["images"]
    assert record["file"] == "sub/a.png"
    assert record["areas"] == {"lesion": {"pixels": 3, "mm2": 0.3}, "head": {"pixels": 4, "mm2": 0.4}}
    assert record["classes"]["breast"]["predicted"] == "malignant"
    assert record["classes"]["lung"]["probabilities"] == {"healthy": 0.75, "pneumonia": 0.25}
    (row,) = csv.DictReader((out / "predictions.csv").open(newline=""))
    assert row["areas.lesion.mm2"] == "0.3"
    assert row["classes.breast.probabilities.benign"] == "0.2"
    assert row["mask"] == "sub/a_mask.png"
    assert str(tmp_path) not in (out / "predictions.json").read_text()
    assert {path.name for path in out.rglob("*.*")} == {
        "a_mask.png", "a_overlay.png", "predictions.json", "predictions.csv"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("position", "sets"),
    [("unknown", ["breast", "lung"]), ("indis", ["breast", "lung"]), ("breast", ["breast"]), ("head", [])],
)
def test_classes_are_those_of_the_named_organ(tmp_path: Path, position: str, sets: list[str]) -> None:
    run(writer(tmp_path), item(tmp_path, "a.png", position=position))
    (record,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert sorted(record["classes"]) == sets
    assert record["prompts"]["position"] == position


def test_area_in_mm2_is_null_without_spacing(tmp_path: Path) -> None:
    run(writer(tmp_path), item(tmp_path, "a.png", spacing=torch.tensor([float("nan")] * 2)))
    (record,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert record["areas"]["head"] == {"pixels": 4, "mm2": None}
    assert record["spacing_mm"] == {"row": None, "column": None}


def test_failed_files_are_named_and_the_status_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = item(tmp_path, "bad.png", error=f"{tmp_path / 'in/bad.png'}: cannot be decoded; copy it again.")
    with pytest.raises(SystemExit, match="1"):
        run(writer(tmp_path), bad, item(tmp_path, "good.png"))
    found = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert [record["error"] for record in found] == ["cannot be decoded; copy it again.", ""]
    assert "bad.png: cannot be decoded; copy it again." in caplog.text
    assert "1 files failed: bad.png" in caplog.text
    assert not (tmp_path / "out/bad_mask.png").exists()
    assert (tmp_path / "out/good_mask.png").exists()


def test_an_odd_name_costs_no_other_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    latin = os.fsdecode(b"Bef\xfcnd.png")  # not UTF-8
    long = "n" * 245 + ".png"
    with pytest.raises(SystemExit, match="1"):
        run(writer(tmp_path), *(item(tmp_path, name, place=i) for i, name in enumerate([latin, long, "good.png"])))
    found = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))["images"]
    assert [record["file"] for record in found] == [latin, long, "good.png"]
    assert found[1]["error"] == "file name must leave room for _mask.png, got 254 characters; shorten it."
    assert [record["mask"] is None for record in found] == [False, True, False]
    assert (tmp_path / "out" / found[0]["mask"]).exists()
    assert (tmp_path / "out/good_mask.png").exists()
    assert r"Bef\udcfcnd.png" in (tmp_path / "out/predictions.csv").read_text(encoding="utf-8")
    assert "1 files failed" in caplog.text


def test_records_keep_the_order_of_the_data_set(tmp_path: Path) -> None:
    names = [f"{n:02}.png" for n in range(40)]
    items = [item(tmp_path, name, place=n) for n, name in enumerate(names)]
    items[3]["picture"] = np.zeros((6, 9, 3), np.uint8)  # in color
    run(writer(tmp_path), *items)
    out = tmp_path / "out"
    assert [r["file"] for r in json.loads((out / "predictions.json").read_text())["images"]] == names
    assert [row["file"] for row in csv.DictReader((out / "predictions.csv").open(newline=""))] == names
    assert len(list(out.glob("*_mask.png"))) == len(list(out.glob("*_overlay.png"))) == 40
    black, gray = (np.asarray(Image.open(out / f"{name}_overlay.png")) for name in ("03", "04"))
    assert black[2, 2].tolist() == [0, 0, 0]
    assert gray[2, 2].tolist() == [100, 100, 100]


def test_a_picture_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "out/b_overlay.png/in_its_place").mkdir(parents=True)
    items = [item(tmp_path, f"{name}.png", place=n) for n, name in enumerate("abc")]
    with pytest.raises(OSError, match=r"b_overlay\.png could not be written .*directory.*run the same command again"):
        run(writer(tmp_path), *items)
    assert not (tmp_path / "out/predictions.json").exists()
    partial = (tmp_path / "out/predictions.partial.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in partial][:2] == ["file", "a.png"]


def test_what_was_written_of_a_batch_that_failed_keeps_its_row(tmp_path: Path) -> None:
    (tmp_path / "out/b_overlay.png/in_its_place").mkdir(parents=True)
    handler = writer(tmp_path)
    engine = Engine(lambda _, batch: [handler(one) for one in batch])
    handler.attach(engine)
    with pytest.raises(OSError, match=r"b_overlay\.png could not be written"):
        engine.run([[item(tmp_path, f"{name}.png", place=n) for n, name in enumerate("abc")]])
    partial = (tmp_path / "out/predictions.partial.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in partial] == ["file", "a.png"]


def test_a_full_disk_is_named_with_the_picture(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full, the device that is always full, on this system")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.a_mask.png.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"a_mask\.png could not be written .*No space left on device"):
        run(writer(tmp_path), item(tmp_path, "a.png"))


def test_an_interrupted_run_keeps_its_rows_and_the_earlier_tables(tmp_path: Path) -> None:
    run(writer(tmp_path), item(tmp_path, "a.png"))
    before = (tmp_path / "out/predictions.csv").read_text()
    with pytest.raises(KeyError, match="image"):
        run(writer(tmp_path), item(tmp_path, "b.png"), {})
    assert (tmp_path / "out/predictions.csv").read_text() == before
    partial = (tmp_path / "out/predictions.partial.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in partial] == ["file", "b.png"]


def test_output_folder_that_cannot_be_written_stops_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in its place")
    steps: list[int] = []
    engine = Engine(lambda engine, batch: steps.append(batch))
    writer(tmp_path).attach(engine)
    with pytest.raises(OSError, match=r"output_dir must be a folder that can be written, got .*out.*--output_dir"):
        engine.run([1])
    assert not steps


@pytest.mark.parametrize("where", [(0, 0), (255, 491), (120, 0), (60, 200)])
def test_an_overlay_is_tinted_near_its_structures_as_it_would_be_everywhere(where: tuple[int, int]) -> None:
    """A structure in the far corner has the whole image tinted: contours of two pixels, at the border and inside it."""
    row, column = where
    image = np.random.default_rng(0).integers(0, 256, (520, 540, 3), np.uint8)
    mask = np.zeros((520, 540), np.uint8)
    mask[row : row + 40, column : column + 45] = 2
    both = mask.copy()
    both[[0, -1], [-1, 0]] = both[[-1, 0], [-1, 0]] = 1
    near = (slice(max(0, row - 3), row + 43), slice(max(0, column - 3), column + 48))
    assert np.array_equal(draw_overlay(image, mask)[near][5:, 5:], draw_overlay(image, both)[near][5:, 5:])
    drawn = draw_overlay(image, mask)
    assert (drawn != image).any(2).sum() <= 40 * 45
    assert tuple(drawn[row + 20, column + 44]) == color(2)
    assert tuple(drawn[row + 20, column + 43]) == color(2)


def test_overlay_fills_lightly_and_draws_the_contour() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    drawn = draw_overlay(np.full((9, 9, 3), 100, np.uint8), mask)
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert tuple(drawn[2, 4]) == color(1) == (230, 25, 75)
    assert drawn[4, 4].tolist() == [132, 81, 94]  # 0.75 * 100 + 0.25 * color


def slow_overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The overlay's definition, pixel by pixel in scipy and floating point."""
    drawn = image.astype(np.float32)
    width = max(1, min(mask.shape) // 250)
    for index in (int(v) for v in np.unique(mask) if v > 0):
        inside = mask == index
        drawn[inside] = 0.75 * drawn[inside] + 0.25 * np.array(color(index), np.float32)
        drawn[inside & ~binary_erosion(inside, iterations=width, border_value=1)] = color(index)
    result: np.ndarray = drawn.round().astype(np.uint8)
    return result


@pytest.mark.parametrize("scale", [1, 40])
def test_overlays_are_those_of_the_definition(scale: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        height, width = random.integers(1, 40, 2)
        mask = np.zeros((height, width), np.uint8)
        for value in random.integers(0, 9, 6):
            top, left = random.integers(0, height), random.integers(0, width)
            mask[top : top + random.integers(1, 30), left : left + random.integers(1, 30)] = value
        mask = np.kron(mask, np.ones((scale, scale), np.uint8))
        image = random.integers(0, 256, (*mask.shape, 3), np.uint8)
        np.testing.assert_array_equal(draw_overlay(image, mask), slow_overlay(image, mask))
        gray = np.repeat(image[..., :1], 3, axis=2)
        np.testing.assert_array_equal(draw_overlay(image[..., :1], mask), slow_overlay(gray, mask))


@pytest.mark.parametrize("deflate", [zlib.compress, pictures.deflate], ids=["zlib", "isal"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (1, 300), (300, 1), (4, 6, 3)])
def test_png_files_hold_the_pixels(
    shape: tuple[int, ...], deflate: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "deflate", deflate)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as read:
        read.verify()
    with Image.open(io.BytesIO(encode_png(pixels))) as read:
        assert read.mode == ("RGB" if len(shape) == 3 else "L")
        np.testing.assert_array_equal(np.asarray(read), pixels)
    turned = np.swapaxes(pixels, 0, 1)  # not contiguous, as masks come
    with Image.open(io.BytesIO(encode_png(turned))) as read:
        np.testing.assert_array_equal(np.asarray(read), turned)


def test_atomic_writing_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError, match="bytes"):
        write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
