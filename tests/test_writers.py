# SPDX-License-Identifier: Apache-2.0
import csv
import io
import json
import os
import resource
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
from bundle.files import LEDGER, OutputFolder, sha256
from bundle.tables import read_table
from bundle.transforms import DescribePredictiond
from bundle.writers import PredictionWriter, color, draw_overlay, encode_png, pictures
from bundle.writers.probabilities import round_maps

STRUCTURES = ["background", "lesion", "head"]
LABEL_SETS = {"breast": ["normal", "benign", "malignant"], "lung": ["healthy", "pneumonia"]}


def writer(tmp_path: Path, folder: str = "out", **options: Any) -> PredictionWriter:
    (tmp_path / "model.pt").write_bytes(b"weights")
    return PredictionWriter(
        output_dir=str(tmp_path / folder),
        structures=STRUCTURES,
        label_sets=LABEL_SETS,
        weights=str(tmp_path / "model.pt"),
        runtime="torch",
        **options,
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


def run(handler: PredictionWriter, *items: dict[str, Any], fails: bool = False) -> None:
    """An engine whose output is one written item after the other."""
    engine = Engine(lambda _, batch: [handler(one) for one in batch])
    handler.attach(engine)
    with pytest.raises(SystemExit, match="1") if fails else nullcontext():
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
        LEDGER, "a_mask.png", "a_overlay.png", "predictions.json", "predictions.csv"
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
    assert found[1]["error"] == "file name must leave room for _overlay.png, got 257 characters; shorten it."
    assert [record["mask"] is None for record in found] == [False, True, False]
    assert (tmp_path / "out" / found[0]["mask"]).exists()
    assert (tmp_path / "out/good_mask.png").exists()
    assert r"Bef\udcfcnd.png" in (tmp_path / "out/predictions.csv").read_text(encoding="utf-8")
    assert "1 files failed" in caplog.text


def test_names_are_no_formulas_and_break_no_table(tmp_path: Path) -> None:
    names = ["=1+1.png", "+a.png", "-a/b.png", "@a.png", 'a,"b"\n=c.png', "\ta.png", "\ra.png"]
    names.append(os.fsdecode(b"=\xff.png"))
    handler = writer(tmp_path)
    items = [item(tmp_path, name, place=place) for place, name in enumerate(names)]
    with pytest.raises(KeyError, match="image"):  # interrupted
        run(handler, *items, {})
    partial = read_table(handler.partial)
    run(handler, *items)
    table = read_table(tmp_path / "out/predictions.csv")
    assert [row["file"] for row in table] == [row["file"] for row in partial] == names
    assert [(tmp_path / "out" / row["mask"]).is_file() for row in table] == [True] * 8
    assert {row["areas.head.pixels"] for row in table} == {"4"}
    images = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))["images"]
    assert [image["file"] for image in images] == names
    with (tmp_path / "out/predictions.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'=1+1.png" in cells


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


def full_disk_picture() -> dict[str, Any]:
    """A picture of noise, whose overlay has 200 kB."""
    return {"picture": np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes, as on a disk with that much left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_run_and_is_named_with_the_picture(tmp_path: Path) -> None:
    mask = torch.zeros(1, 240, 300, dtype=torch.uint8)
    items = [item(tmp_path, "a.png"), {**item(tmp_path, "b.png", **full_disk_picture()), "pred": mask[0].T}]
    with (
        largest_file(50_000),
        pytest.raises(
            OSError, match=r"b_overlay\.png could not be written .*File too large.*run the same command again"
        ),
    ):
        run(writer(tmp_path), *items)
    out = tmp_path / "out"
    assert not (out / "predictions.json").exists()
    assert [line.split(",")[0] for line in (out / "predictions.partial.csv").read_text().splitlines()] == [
        "file",
        "a.png",
    ]
    assert {path.name for path in out.iterdir()} == {LEDGER, "a_mask.png", "a_overlay.png", "predictions.partial.csv"}
    run(writer(tmp_path), *items)
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 2


def test_what_was_written_of_a_batch_that_failed_keeps_its_row(tmp_path: Path) -> None:
    (tmp_path / "out/b_overlay.png/in_its_place").mkdir(parents=True)
    handler = writer(tmp_path)
    engine = Engine(lambda _, batch: [handler(one) for one in batch])
    handler.attach(engine)
    with pytest.raises(FileExistsError, match=r"b_overlay\.png: expected a free name .*got no plain file"):
        engine.run([[item(tmp_path, f"{name}.png", place=n) for n, name in enumerate("abc")]])
    partial = (tmp_path / "out/predictions.partial.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in partial] == ["file", "a.png"]


@pytest.mark.parametrize("name", ["predictions.json", "predictions.csv", "predictions.partial.csv"])
def test_tables_of_others_stop_the_run_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{name}: .*got a file that no earlier run lists"):
        run(writer(tmp_path), item(tmp_path, "a.png"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_a_killed_run_of_several_and_a_user_beside_them(tmp_path: Path) -> None:
    """Two runs with different images share the folder; a partial table that was left is taken over."""
    run(writer(tmp_path), item(tmp_path, "a.png"))
    OutputFolder(tmp_path / "out").grow("predictions.partial.csv").write_text("rows of a killed run")
    run(writer(tmp_path), item(tmp_path, "b.png"))
    run(writer(tmp_path), item(tmp_path, "a.png"), item(tmp_path, "b.png"))
    assert not (tmp_path / "out/predictions.partial.csv").exists()
    (tmp_path / "out/a_mask.png").write_bytes(b"corrected")
    with pytest.raises(FileExistsError, match=r"a_mask\.png: .*changed since"):
        run(writer(tmp_path), item(tmp_path, "a.png"))


def maps(*pixels: tuple[float, float, float]) -> np.ndarray:
    """Probabilities (3, 1, N)."""
    return np.array(pixels, np.float32).T[:, None]


def test_probabilities_are_rounded_so_that_the_mask_stays_the_most_probable() -> None:
    exact = maps((0.5, 0.25, 0.25), (0.49990, 0.5001, 0), (0.50001, 0.5000, 0), (0.2, 0.39998, 0.4), (0.1, 0.2, 0.7))
    mask = exact.argmax(0).astype(np.uint8)
    assert mask.tolist() == [[0, 1, 0, 2, 2]]
    plain = exact.astype(np.float16)
    assert plain.argmax(0).tolist() == [[0, 0, 0, 1, 2]]  # two pixels would be other structures
    rounded = round_maps(exact, mask)
    assert rounded.dtype == np.float16
    assert rounded.argmax(0).tolist() == mask.tolist()
    assert np.abs(rounded.astype(np.float32) - exact).max() < 0.0008
    assert np.count_nonzero(rounded != plain) == 2


def test_probabilities_that_differ_in_the_fifth_digit_agree_with_the_mask() -> None:
    """The mask's way back and the maps' compute places apart."""
    exact = maps((0.50001, 0.49999, 0.0), (0.50003, 0.49997, 0.0))
    assert round_maps(exact, np.array([[1, 1]], np.uint8)).argmax(0).tolist() == [[1, 1]]


def test_a_mask_that_says_otherwise_does_not_change_the_probabilities() -> None:
    exact = maps((0.1, 0.2, 0.7), (0.3, 0.3, 0.4))
    assert np.array_equal(round_maps(exact, np.zeros((1, 2), np.uint8)), exact.astype(np.float16))


def test_probabilities_are_a_file_that_numpy_reads(tmp_path: Path) -> None:
    exact = np.random.default_rng(0).dirichlet([1, 1, 1], (6, 9)).transpose(2, 0, 1).astype(np.float32)
    one = item(tmp_path, "sub/a.png", probability_maps=torch.from_numpy(exact))
    handler = writer(tmp_path, probabilities="true")
    run(handler, one, item(tmp_path, "b.png", place=1, error="b.png: cannot be decoded"), fails=True)
    with np.load(tmp_path / "out/sub/a_probabilities.npz") as found:
        assert found["structures"].tolist() == STRUCTURES
        assert found["spacing_mm"].tolist() == [0.5, 0.2]
        assert found["probabilities"].shape == (3, 6, 9)
        assert found["probabilities"].dtype == np.float16
        np.testing.assert_allclose(found["probabilities"], exact, atol=2.5e-4)
    good, bad = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert (good["probabilities"], bad["probabilities"]) == ("sub/a_probabilities.npz", None)
    before = (tmp_path / "out/sub/a_probabilities.npz").read_bytes()
    run(writer(tmp_path, probabilities=True), one)
    assert (tmp_path / "out/sub/a_probabilities.npz").read_bytes() == before


def test_a_switch_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"probabilities must be true or false, got 'yes'; correct --probabilities"):
        writer(tmp_path, probabilities="yes")


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
    with pytest.raises(OSError, match=r"out must be a writable folder, got: .*--output_dir"):
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
