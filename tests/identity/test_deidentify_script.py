# SPDX-License-Identifier: Apache-2.0
"""The command: names in headers and pixels of DICOM files and pictures are gone, and it says what it did."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont

from scripts.deidentify import main
from tests.identity.test_identity import NAME, image, leaks

pytest.importorskip("dicomanonymizer", reason="needs dicom-anonymizer")
pytest.importorskip("rapidocr", reason="needs RapidOCR")

PLACES = {(20, 12): 18, (330, 30): 24, (24, 400): 14}  # column and row of a line -> its height


def frame() -> tuple[np.ndarray, np.ndarray]:
    """A speckled rectangle with names above and below it, (H, W) uint8; and where the letters are."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((440, 640), np.uint8)
    pixels[80:380, 150:500] = rng.integers(20, 140, (300, 350))
    letters = Image.new("L", (640, 440))
    for place, height in PLACES.items():
        font = ImageFont.load_default(height)
        ImageDraw.Draw(letters).text(place, f"{NAME} ELEANOR 24.12.73", fill=255, font=font)
    written = np.asarray(letters)
    return np.maximum(pixels, written), written > 60


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    pixels, _ = frame()
    ds = image()
    ds.Rows, ds.Columns, ds.PixelData = *pixels.shape, pixels.tobytes()
    ds.save_as(folder / "a.dcm", enforce_file_format=True)
    Image.fromarray(pixels).save(folder / "b.png")
    return folder


def test_letters_are_black_and_echoes_are_not(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = tmp_path / "clean"
    assert main([str(archive), "--output_dir", str(clean), "--mapping", str(tmp_path / "map.csv")]) == 0
    pixels, letters = frame()
    for found in (pydicom.dcmread(clean / "00001.dcm").pixel_array, np.asarray(Image.open(clean / "00002.png"))):
        assert (found[letters] == 0).mean() > 0.99
        assert np.array_equal(found[80:380, 150:500], pixels[80:380, 150:500])
    assert not any(leaks(path.read_bytes()) for path in clean.iterdir())
    said = capsys.readouterr()
    assert not leaks((said.out + said.err).encode())
    assert "2 files in" in said.out
    assert "a.dcm,00001.dcm" in (tmp_path / "map.csv").read_text()


def test_a_secret_keeps_uids_over_runs(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "salt").write_bytes(bytes(range(16)))
    uids = []
    for name in ("one", "two"):
        options = ["--output_dir", str(tmp_path / name), "--salt", str(tmp_path / "salt"), "--keep_text"]
        assert main([str(archive), *options]) == 0
        uids.append(pydicom.dcmread(tmp_path / name / "00001.dcm").StudyInstanceUID)
    assert uids[0] == uids[1]
    (tmp_path / "salt").write_bytes(b"short")
    assert main([str(archive), "--output_dir", str(tmp_path / "three"), "--salt", str(tmp_path / "salt")]) == 2
    assert "16 bytes or more expected, got 5" in capsys.readouterr().err


def test_a_broken_file_is_named_and_costs_no_other(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive / "0.dcm").write_bytes((archive / "a.dcm").read_bytes()[:700])
    assert main([str(archive), "--output_dir", str(tmp_path / "clean"), "--keep_text"]) == 1
    assert "0.dcm: not written: " in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "clean").glob("0*")) == ["00002.dcm", "00003.png"]


def test_the_output_is_not_the_input(archive: Path, tmp_path: Path) -> None:
    Image.fromarray(frame()[0]).save(archive / "00001.png")
    before = {path: path.read_bytes() for path in archive.iterdir()}
    assert main([str(archive), "--output_dir", str(archive), "--keep_text"]) == 2
    assert {path: path.read_bytes() for path in archive.iterdir()} == before


def test_the_mapping_is_kept_apart(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = tmp_path / "clean/map.csv"
    assert main([str(archive), "--output_dir", str(tmp_path / "clean"), "--keep_text", "--mapping", str(inside)]) == 2
    assert "map.csv: a place outside of" in capsys.readouterr().err
    assert not inside.exists()
