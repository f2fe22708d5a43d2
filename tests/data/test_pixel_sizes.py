# SPDX-License-Identifier: Apache-2.0
"""Tables of pixel sizes: each image gets its own, or none and a note."""

import unicodedata
from pathlib import Path

import pytest

from bundle.data.public_sets import read_hc18
from tests.data.test_folders import read, touch

SITES = ("imgs/a/p0.png", "masks/a/p0.png", "imgs/b/p0.png", "masks/b/p0.png")
FLAT = ("imgs/p0.png", "masks/p0.png", "imgs/p1.png", "masks/p1.png")


def spacings(tmp_path: Path, files: tuple[str, ...], **tables: str) -> tuple[dict[str, float | None], str]:
    """Size by place of the image, and the notes on the tables; ``tables`` are rows by the name without suffix."""
    root = tmp_path / "segmentation/S"
    touch(root, *files)
    for name, rows in tables.items():
        (root / f"{name}.csv").write_text("filename,pixel_size_mm\n" + rows.replace(" ", "\n") + "\n")
    found = read(tmp_path)
    sizes = {}
    for item in found.items:
        row, column = item.get("spacing", (None, None))
        assert row == column
        sizes[Path(item["image"]).relative_to(root / "imgs").as_posix()] = row
    return sizes, "\n".join(note for note in found.notices if "pixel_size" in note)


@pytest.mark.parametrize(
    "row", ["p0.png", "p0", "imgs/p0.png", "imgs/p0", "images/p0.png", "./imgs/p0.png", r"imgs\p0.png", "p0.png "]
)
def test_a_row_names_an_image_by_path_or_name_with_or_without_suffix(tmp_path: Path, row: str) -> None:
    rows = f"filename,pixel_size_mm\n{row},0.1\np1.png,0.4\n"
    touch(tmp_path / "segmentation/S", *FLAT)
    (tmp_path / "segmentation/S/x_pixel_size.csv").write_text(rows)
    found = read(tmp_path)
    assert [item["spacing"] for item in found.items] == [[0.1, 0.1], [0.4, 0.4]]
    assert found.notices == []


def test_images_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    assert spacings(tmp_path, SITES, x_pixel_size="a/p0.png,0.1 imgs/b/p0,0.4") == (
        {"a/p0.png": 0.1, "b/p0.png": 0.4},
        "",
    )


@pytest.mark.parametrize("row", ["p0.png", "p0"])
def test_a_name_of_several_images_gives_none_of_them_a_size(tmp_path: Path, row: str) -> None:
    sizes, notes = spacings(tmp_path, SITES, x_pixel_size=f"{row},0.1 b/p0.png,0.4")
    assert sizes == {"a/p0.png": None, "b/p0.png": 0.4}
    assert f"1 of 2 have names that several have, such as {row!r} (imgs/a/p0.png, imgs/b/p0.png)" in notes
    assert "1 of 2 images get no pixel size (imgs/a/p0.png)" in notes


def test_an_image_without_a_mask_counts_among_those_of_a_name(tmp_path: Path) -> None:
    sizes, notes = spacings(tmp_path, SITES[:3], x_pixel_size="p0.png,0.1")
    assert sizes == {"a/p0.png": None}
    assert "such as 'p0.png' (imgs/a/p0.png, imgs/b/p0.png)" in notes


def test_a_path_that_is_not_there_is_not_taken_by_its_name(tmp_path: Path) -> None:
    sizes, notes = spacings(tmp_path, SITES[:2], x_pixel_size="a/p0.png,0.1 b/p0.png,0.4")
    assert sizes == {"a/p0.png": 0.1}
    assert notes.endswith("x_pixel_size.csv: 1 of 2 rows name no image of the set (b/p0.png)")


@pytest.mark.parametrize("rows", ["p0.png,0.1 p0.png,0.5 p1.png,0.4", "p0.png,0.1 imgs/p0.png,0.5 p1.png,0.4"])
def test_an_image_of_two_sizes_gets_none(tmp_path: Path, rows: str) -> None:
    sizes, notes = spacings(tmp_path, FLAT, x_pixel_size=rows)
    assert sizes == {"p0.png": None, "p1.png": 0.4}
    assert (
        "1 has several and gets none: p0.png (0.1 in x_pixel_size.csv line 2, 0.5 in x_pixel_size.csv line 3)" in notes
    )


def test_tables_that_contradict_are_named_and_those_that_agree_are_joined(tmp_path: Path) -> None:
    sizes, notes = spacings(tmp_path, FLAT, a_pixel_size="p0.png,0.1 p1.png,0.4", b_pixel_size="p0.png,0.5 p1.png,0.40")
    assert sizes == {"p0.png": None, "p1.png": 0.4}
    assert "p0.png (0.1 in a_pixel_size.csv line 2, 0.5 in b_pixel_size.csv line 2)" in notes


def test_a_note_counts_rows_and_images_without_partner(tmp_path: Path) -> None:
    sizes, notes = spacings(tmp_path, FLAT, x_pixel_size=" ".join(f"q{i}.png,0.1" for i in range(9)))
    assert set(sizes.values()) == {None}
    assert notes == (
        f"{tmp_path / 'segmentation/S/x_pixel_size.csv'}: 9 of 9 rows name no image of the set (q0.png, q1.png, q2.png "
        "and 6 more), 2 of 2 images get no pixel size (imgs/p0.png, imgs/p1.png)"
    )


def test_the_letter_case_of_a_table_does_not_count_and_hidden_files_are_none(tmp_path: Path) -> None:
    touch(tmp_path / "segmentation/S", *FLAT[:2])
    (tmp_path / "segmentation/S/X_Pixel_Size.CSV").write_text("filename,pixel_size_mm\np0.png,0.1\n")
    (tmp_path / "segmentation/S/._X_Pixel_Size.csv").write_bytes(b"\0\5\26\7")
    assert [item["spacing"] for item in read(tmp_path).items] == [[0.1, 0.1]]


def test_composed_and_decomposed_names_are_equal(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "é0")
    sizes, notes = spacings(tmp_path, (f"imgs/{name}.png", f"masks/{name}.png"), x_pixel_size="é0.png,0.1")
    assert (list(sizes.values()), notes) == ([0.1], "")


def test_images_with_classes_get_their_sizes(tmp_path: Path) -> None:
    root = tmp_path / "classification/S"
    touch(root, "ill/p0.png", "well/p0.png", "well/p1.png")
    (root / "pixel_size.csv").write_text("filename,pixel_size_mm\nill/p0.png,0.1\nwell/p0.png,0.4\np1,0.2\n")
    found = read(tmp_path, structures={})
    assert [item["spacing"][0] for item in found.items] == [0.1, 0.4, 0.2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"filename,pixel_size_mm\np0.png,0,12\n", "line 2: expected as many cells as in the first line, got ['12']"),
        (b"filename,pixel_size_mm\np0.png,1,2\n", "line 2: expected as many cells as in the first line, got ['2']"),
        (b"filename,pixel_size_x,pixel_size_y\np0.png,0.1,0.2\n", "expected one column 'filename' and one of pixel"),
        ("filename,pixel_size_mm\np0.png,0.1\n".encode("utf-16"), "expected a readable CSV file in UTF-8"),
    ],
)
def test_a_table_that_can_be_misread_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    touch(tmp_path / "segmentation/S", *FLAT[:2])
    (tmp_path / "segmentation/S/x_pixel_size.csv").write_bytes(text)
    (entry,) = read(tmp_path).left_out
    assert entry.whole
    assert message in entry.reason


def test_hc18_takes_paths_and_notes_images_without_a_row(tmp_path: Path) -> None:
    touch(tmp_path, *(f"training_set/{n}_HC{word}.png" for n in range(3) for word in ("", "_Annotation")))
    table = tmp_path / "Training_set_pixel_size_and_HC.CSV"
    table.write_text("filename,pixel size(mm)\ntraining_set/0_HC.png,0.1\n1_HC,0.4\n")
    found = read_hc18(tmp_path)
    assert [item.get("spacing") for item in found.items] == [[0.1, 0.1], [0.4, 0.4], None]
    assert found.notices == [f"{table}: 1 of 3 images get no pixel size (2_HC.png)"]


@pytest.mark.parametrize(
    ("masks", "classes", "spacing"),
    [
        ("0.1", "0.1", [0.1, 0.1]),
        ("0.1", "", [0.1, 0.1]),
        ("", "0.1", [0.1, 0.1]),
        ("0.1", "0.4", None),
        ("", "", None),
    ],
)
def test_an_image_with_mask_and_class_has_one_size(
    tmp_path: Path, masks: str, classes: str, spacing: list[float] | None
) -> None:
    touch(tmp_path, "segmentation/S/imgs/p0.png", "segmentation/S/masks/p0.png", "classification/S/ill/p0.png")
    touch(tmp_path, "classification/S/well/p1.png")
    for task, size in (("segmentation", masks), ("classification", classes)):
        if size:
            (tmp_path / task / "S/pixel_size.csv").write_text(f"filename,pixel_size_mm\np0.png,{size}\n")
    found = read(tmp_path)
    item = found.items[0]
    assert {"label", "class"} <= set(item)
    assert item.get("spacing") == spacing
    assert ("spacing" in item) == (spacing is not None)
    assert len([note for note in found.notices if "they differ" in note]) == (masks + classes == "0.10.4")
