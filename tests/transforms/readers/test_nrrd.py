# SPDX-License-Identifier: Apache-2.0
import bz2
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from bundle.transforms.readers import read_file

nrrd = pytest.importorskip("nrrd", reason="pynrrd is optional")

GREY = np.array([[0, 10, 20, 30, 40], [50, 60, 70, 80, 90], [100, 110, 120, 130, 255]], np.uint8)  # 3 rows, 5 columns
ENTRIES = {"type": "uint8", "dimension": "2", "sizes": "5 3", "encoding": "raw"}


def write(path: Path, content: bytes = GREY.tobytes(), **entries: str | None) -> Path:
    """An NRRD file; underscores in names of entries are blanks, and entries that are None are left out."""
    named = {name.replace("_", " "): value for name, value in (ENTRIES | entries).items()}
    text = "NRRD0005\n" + "".join(f"{name}: {value}\n" for name, value in named.items() if value is not None)
    path.write_bytes(text.encode() + b"\n" + content)
    return path


def test_nrrd_in_other_axes(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is optional")
    plane = np.arange(20, dtype=np.uint8).reshape(5, 4)
    nrrd.write(str(tmp_path / "a.nrrd"), plane[None], {"spacings": [3.0, 0.2, 0.1]})
    raw = read_file(str(tmp_path / "a.nrrd"))
    assert np.array_equal(raw.pixels, plane.T)
    assert raw.spacing == (0.1, 0.2)
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content[:-12])
    with pytest.raises((OSError, ValueError), match=r"a\.nrrd: "):
        read_file(str(tmp_path / "a.nrrd"))


STORED = {
    "raw": (GREY.tobytes(), {}),
    "gzip": (gzip.compress(GREY.tobytes()), {"encoding": "gzip"}),
    "bzip2": (bz2.compress(GREY.tobytes()), {"encoding": "bzip2"}),
    "text": (" ".join(map(str, GREY.ravel())).encode(), {"encoding": "ascii"}),
    "text of floats": (" ".join(map(str, GREY.ravel())).encode(), {"encoding": "txt", "type": "float"}),
    "big": (GREY.astype(">u2").tobytes(), {"type": "uint16", "endian": "big"}),
    "skipped": (b"a line\nxyz" + GREY.tobytes(), {"line_skip": "1", "byte_skip": "3"}),
    "skipped after": (gzip.compress(b"xyz" + GREY.tobytes()), {"encoding": "gzip", "byteskip": "3"}),
    "from the end": (b"whatever" + GREY.tobytes(), {"byte_skip": "-1"}),
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("field", ["", "data_file", "datafile"])
def test_values_in_the_file_and_beside_it(tmp_path: Path, name: str, field: str) -> None:
    content, entries = STORED[name]
    path = write(tmp_path / "a.nhdr", b"" if field else content, **entries, **({field: "a.raw"} if field else {}))
    (tmp_path / "a.raw").write_bytes(content)
    raw = read_file(str(path))
    assert np.array_equal(raw.pixels, GREY)
    assert raw.pixels.dtype.isnative


@pytest.mark.parametrize("field", ["data_file", "datafile"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "sub/a.raw", "LIST", "LIST 2", "a%03d.raw 1 10 1"])
def test_a_header_names_no_file_elsewhere(tmp_path: Path, field: str, name: str) -> None:
    path = write(tmp_path / "a.nrrd", **{field: name})
    with pytest.raises(
        ValueError, match=rf"a\.nrrd: NRRD must hold its values or name one file beside it, got '{name}'"
    ):
        read_file(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes and devices")
@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
def test_a_header_names_no_pipe_or_device(tmp_path: Path, encoding: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", ".", ".."):
        path = write(tmp_path / "a.nhdr", b"", data_file=name, encoding=encoding)
        with pytest.raises(ValueError, match=r"a\.nhdr: NRRD must "):
            read_file(str(path))


def test_a_missing_file_of_values_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nhdr", b"", data_file="a.raw")
    with pytest.raises(
        OSError, match=r"a\.nhdr: cannot be decoded: the NRRD names 'a\.raw' for its values, .* not there"
    ):
        read_file(str(path))


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_compressed_values_are_not_unpacked_beyond_their_size(tmp_path: Path, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else bz2.compress
    path = write(tmp_path / "a.nrrd", pack(bytes(1 << 26)), encoding=encoding)
    with pytest.raises(ValueError, match=r"a\.nrrd: NRRD must unpack to 15 bytes of values, got more"):
        read_file(str(path))
    path = write(tmp_path / "a.nrrd", b"nothing packed", encoding=encoding)
    with pytest.raises(ValueError, match=r"a\.nrrd: NRRD must hold compressed values, got damaged ones"):
        read_file(str(path))


BROKEN: dict[str, tuple[dict[str, str | None], str]] = {
    "no line of an entry": ({"type": "uint8\nnonsense"}, "must have lines of name: value .* got 'nonsense'"),
    "version": ({"type": "uint8\nspace dimension: two"}, "header must follow its format, .*'two'"),
    "no type": ({"type": None}, "must have the entry type, got none"),
    "no encoding": ({"encoding": None}, "must have the entry encoding, got none"),
    "no sizes": ({"sizes": None}, "header must follow its format, .*no entry 'sizes'"),
    "block": ({"type": "block", "block_size": "4", "endian": "little"}, "must hold numbers of a known type"),
    "complex": ({"type": "complex"}, "entry type must be one of numbers, got 'complex'"),
    "no endian": ({"type": "uint16"}, "must hold numbers of a known type and byte order, got 'uint16'"),
    "negative": ({"sizes": "-5 3"}, r"entry sizes must hold 2 numbers above 0, one for each axis, got \[-5, 3\]"),
    "number": ({"sizes": "5 3 1"}, r"entry sizes must hold 2 numbers above 0, .*got \[5, 3, 1\]"),
    "spacings": ({"spacings": "0.1"}, "entry spacings must have a value for each of 2 axes, got 1"),
    "units": ({"units": '"mm"'}, "entry units must have a value for each of 2 axes, got 1"),
    "encoding": ({"encoding": "hex"}, "entry encoding must be raw, gzip, bzip2 or ascii, got 'hex'"),
    "text": ({"encoding": "ascii"}, "of text must hold uint8 numbers, got others"),
    "cut": ({"sizes": "5 30"}, "must have 150 bytes of values as its sizes say, got 15"),
    "too long": ({"sizes": "5 2"}, "must have 10 bytes of values as its sizes say, got more"),
    "skip": ({"line_skip": "1000000000000"}, "line skip and byte skip must be 0 to 1048576, or -1 byte, got 10+ and 0"),
    "colors": ({"kinds": "vector domain"}, "must have 3 or 4 colors, got 5 of them"),
    "huge": ({"sizes": "60000 60000"}, r"must have 1 to \d+ pixels, got 60000x60000"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_told_what_is_wrong(tmp_path: Path, kind: str) -> None:
    entries, message = BROKEN[kind]
    with pytest.raises((OSError, ValueError), match=rf"a\.nrrd: .*{message}"):
        read_file(str(write(tmp_path / "a.nrrd", **entries)))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("", 1), ("mm", 1), ("cm", 10), ("m", 1000), ("um", 1e-3), ("\u00b5m", 1e-3), ("\u03bcm", 1e-3)],
)
@pytest.mark.parametrize("field", ["units", "space units"])
def test_lengths_are_taken_in_their_unit(tmp_path: Path, unit: str, factor: float, field: str) -> None:
    x, y = 0.2 / factor, 0.1 / factor
    entries = {"spacings": f"{x} {y}", "units": f'"{unit}" "{unit}"'}
    if field == "space units":
        entries = {"space_dimension": "2", "space_units": entries["units"], "space_directions": f"({x},0) (0,{y})"}
        entries["space_origin"] = f"({7 / factor},0)"
    raw = read_file(str(write(tmp_path / "a.nrrd", **entries)))
    assert raw.spacing == pytest.approx((0.1, 0.2))
    assert raw.affine[0, 0] == pytest.approx(-0.2)
    assert raw.affine[0, 3] == pytest.approx(-7 if field == "space units" else 0)
    assert raw.notes == ()


@pytest.mark.parametrize("field", ["units", "space units"])
def test_a_spacing_in_an_unknown_unit_is_not_known(tmp_path: Path, field: str) -> None:
    entries = {"spacings": "0.2 0.1", "units": '"pixel" "mm"'}
    if field == "space units":
        entries = {"space_dimension": "2", "space_units": '"pixel" "mm"', "space_directions": "(0.2,0) (0,0.1)"}
    raw = read_file(str(write(tmp_path / "a.nrrd", **entries)))
    assert np.isnan(raw.spacing).all()
    assert raw.notes == ("the units 'pixel' 'mm' are not known, and so is the spacing",)
    assert np.isfinite(raw.affine).all()


def test_the_unit_of_another_axis_costs_nothing(tmp_path: Path) -> None:
    entries = {"space_directions": "(0.02,0,0) (0,0.01,0) (0,0,1)", "space_units": '"cm" "cm" "ms"'}
    path = write(tmp_path / "a.nrrd", dimension="3", sizes="5 3 1", space_dimension="3", **entries)
    assert read_file(str(path)).spacing == pytest.approx((0.1, 0.2))


def test_a_spacing_that_cannot_be_right_is_left_out(tmp_path: Path) -> None:
    raw = read_file(str(write(tmp_path / "a.nrrd", spacings="1e-300 1e-300")))
    assert np.isnan(raw.spacing).all()
    assert raw.notes == ("a spacing of 1e-300 x 1e-300 mm cannot be right and is left out",)
