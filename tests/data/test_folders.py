# SPDX-License-Identifier: Apache-2.0
"""Sets in folders as people have them: every file is used, or accounted for with its reason."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.data.folders import read_folders
from bundle.data.known_sets import NO_SET, PublicSet, SetOptions
from tests.transforms.made_files import in_two_parts


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4)).save(root / name)


def read(root: Path, **options: Any) -> PublicSet:
    told = {"position": {"S": "liver"}, "nature": {"S": "tumor"}, "structures": {"S": {255: "cyst"}}} | options
    return read_folders(root, options=SetOptions(**told))


def pairs(found: PublicSet, root: Path) -> dict[str, Any]:
    def below(path: str) -> str:
        return Path(path).relative_to(root).as_posix()

    return {
        below(i["image"]): below(i["label"]) if isinstance(i["label"], str) else [below(x) for x in i["label"]]
        for i in found.items
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("imgs/a.png", "masks/a.png"),
        ("images/a.PNG", "masks/a.png"),
        ("Images/a.png", "Masks/a.bmp"),
        ("img/a.jpg", "gt/a.gif"),
        ("images/a.png", "labels/a_mask.png"),
        ("images/a.png", "ground_truth/a-GT.tif"),
        ("imgs/site/a.png", "masks/site/a.png"),
        ("site/imgs/a.png", "site/masks/a.png"),
        ("a.png", "masks/a.png"),
        ("a.png", "a_mask.png"),
        ("a.png", "a lesion.png"),
        ("imgs/a.png", "imgs/a_segmentation.png"),
    ],
)
def test_layouts_are_read(tmp_path: Path, image: str, mask: str) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, image, mask)
    found = read(tmp_path)
    assert pairs(found, root) == {image: mask}
    assert found.left_out == []


def test_numbered_masks_are_merged_and_two_masks_of_one_name_are_named(tmp_path: Path) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, "imgs/a.png", "masks/a_mask.png", "masks/a_mask_1.png", "imgs/b.png", "masks/b.png", "masks/b.bmp")
    touch(root, "imgs/c.png", "imgs/c.jpg", "masks/c.png", "imgs/d.png", "masks/e.png")
    found = read(tmp_path)
    assert pairs(found, root) == {"imgs/a.png": ["masks/a_mask.png", "masks/a_mask_1.png"]}
    reasons = {Path(entry.reason.split(": ")[0]).name: entry.reason for entry in found.left_out}
    assert "b.png: expected one mask of the name 'b', got 2" in reasons["b.png"]
    assert "masks/b.bmp" in reasons["b.png"]
    assert "expected one image of the name 'c', got 2 (c.jpg, c.png)" in reasons["c.jpg"]
    assert "expected a mask of the name 'd', got none" in reasons["d.png"]
    assert "expected an image of the name 'e'" in reasons["e.png"]


def test_unicode_forms_pair(tmp_path: Path) -> None:
    name = "Größe é.png"
    root = tmp_path / "segmentation" / unicodedata.normalize("NFD", "Schilddrüse 1")
    touch(root, "imgs/" + unicodedata.normalize("NFC", name), "masks/" + unicodedata.normalize("NFD", name))
    (root / "train.txt").write_text(unicodedata.normalize("NFD", name), encoding="utf-8")
    dataset = unicodedata.normalize("NFC", "Schilddrüse 1")
    told = SetOptions(position={dataset: "x"}, nature={dataset: "tumor"}, structures={dataset: {255: "cyst"}})
    found = read_folders(tmp_path, options=told, given_splits=True)
    assert [(item["dataset"], item["split"]) for item in found.items] == [(dataset, "train")]
    assert found.left_out == []


def test_every_unused_file_is_counted_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, "imgs/a.png", "masks/a.png", "__MACOSX/imgs/b.png", "imgs/._a.png")
    for name in ("clip.mp4", "b.mp4", "notes.txt", "t.csv", "Thumbs.db", ".DS_Store", "README.md", "imgs/x.pdf"):
        (root / name).write_text("x")
    found = read(tmp_path)
    counts = {entry.reason.rsplit("got ")[-1].split(";")[0]: entry.count for entry in found.left_out}
    assert counts == {".mp4": 2, ".pdf": 1}
    assert f"{root}/b.mp4, {root}/clip.mp4: expected an image, got .mp4" in found.left_out[0].reason


def test_images_of_a_folder_within_are_one_patient_unless_a_pattern_tells(tmp_path: Path) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, *(f"{part}/{name}.png" for part in ("imgs", "masks") for name in ("p1/a", "p1/b", "p2/a", "c")))
    found = read(tmp_path)
    assert [i["patient"] for i in found.items] == ["S/c", "S/p1", "S/p1", "S/p2"]
    assert "S: 3 images lie in 2 folders such as p1, each of which counts as one patient" in found.notices[0]
    patients = [i["patient"] for i in read(tmp_path, patient={"S": "((.*/)?.+)"}).items]
    assert patients == ["S/c", "S/p1/a", "S/p1/b", "S/p2/a"]


def test_folders_named_after_splits_are_read_together_and_said(tmp_path: Path) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, *(f"{split}/{part}/1.png" for split in ("train", "test") for part in ("imgs", "masks")))
    found = read(tmp_path)
    assert pairs(found, root) == {f"{s}/imgs/1.png": f"{s}/masks/1.png" for s in ("test", "train")}
    assert [i["patient"] for i in found.items] == ["S/test/1", "S/train/1"]
    assert "S: its folders test, train are read together, not as its split" in found.notices[0]


def test_links_in_circles_end(tmp_path: Path) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, "imgs/a.png", "masks/a.png")
    (root / "imgs/round").symlink_to(root)
    assert pairs(read(tmp_path), root) == {"imgs/a.png": "masks/a.png"}


def classes(root: Path, **options: Any) -> PublicSet:
    return read(root, **{"structures": {}} | options)


def test_class_folders_of_folders_are_read(tmp_path: Path) -> None:
    touch(tmp_path / "classification/S", "ill/a.png", "well/p1/b.png", "well/p1/deep/c.png")
    (tmp_path / "classification/S/empty").mkdir()
    found = classes(tmp_path)
    assert [(Path(i["image"]).name, i["class"], i["patient"]) for i in found.items] == [
        ("a.png", "ill", "S/ill/a"),
        ("b.png", "well", "S/p1"),
        ("c.png", "well", "S/p1/deep"),
    ]
    assert found.datasets["S"]["classes"] == ["ill", "well"]
    assert f"{tmp_path}/classification/S/empty: no image in it, so it is no class" in found.notices


@pytest.mark.parametrize("names", [("train", "test"), ("imgs", "masks"), ("Train", "images")])
def test_folders_that_are_no_classes_are_named_with_the_cause(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path / "classification/S", *(f"{name}/ill/a.png" for name in names))
    found = classes(tmp_path)
    assert (found.items, found.datasets) == ([], {})
    assert sum(entry.count for entry in found.left_out) == 2
    assert all(f"to hold a folder a class, got {', '.join(sorted(names))};" in e.reason for e in found.left_out)


def test_masks_do_not_become_images_of_a_class(tmp_path: Path) -> None:
    touch(
        tmp_path / "classification/S", "ill/a.png", "ill/a_mask.png", "well/images/b.png", "well/masks/b.png", "c.png"
    )
    found = classes(tmp_path)
    assert [Path(i["image"]).name for i in found.items] == ["a.png", "b.png"]
    reasons = " | ".join(entry.reason for entry in found.left_out)
    assert "a_mask.png: expected images of the class 'ill', got masks" in reasons
    assert "masks/b.png: expected images of the class 'well', got masks" in reasons
    assert "c.png: expected images in class folders, got one beside them" in reasons


def test_all_that_is_missing_is_asked_for_at_once_and_costs_no_other_set(tmp_path: Path) -> None:
    touch(tmp_path / "segmentation/A B", "imgs/a.png", "masks/a.png")
    touch(tmp_path / "segmentation/S", "imgs/a.png", "masks/a.png")
    touch(tmp_path / "classification/C", "0/a.png", "1/b.png", "0/c.mp4.png")
    (tmp_path / "classification/C/clip.mp4").touch()
    found = read(tmp_path)
    assert pairs(found, tmp_path / "segmentation/S") == {"imgs/a.png": "masks/a.png"}
    assert [(e.dataset, e.count) for e in found.left_out if e.whole] == [("A B", 1), ("C", 3)]
    assert [(e.dataset, e.count) for e in found.left_out if not e.whole] == [("C", 1)]
    told = [
        r"data set 'A B': expected its position and its nature, got none",
        r"add --position 'A B=breast' --nature 'A B=tumor' \(or unknown\); 1 images wait",
        r"add --structure 'A B=255:NAME'",
        r"--position C=breast --nature C=tumor \(or unknown\); 3 images wait",
        r"--classes C=NAME0,NAME1",
    ]
    assert re.search(r"(?s)" + ".*".join(told), "\n".join(e.reason for e in found.left_out if e.whole))


def test_a_set_whose_lists_contradict_costs_no_other_set(tmp_path: Path) -> None:
    for name in ("S", "T"):
        root = tmp_path / "segmentation" / name
        touch(root, "imgs/a.png", "masks/a.png")
        (root / "train.txt").write_text("a.png\n")
    (tmp_path / "segmentation/T/test.txt").write_text("a.png\n")
    told = {key: dict.fromkeys("ST", value) for key, value in (("position", "liver"), ("nature", "tumor"))}
    options = SetOptions(**told, structures={name: {255: "cyst"} for name in "ST"})
    found = read_folders(tmp_path, options=options, given_splits=True)
    assert [item["dataset"] for item in found.items] == ["S"]
    (entry,) = found.left_out
    assert (entry.dataset, entry.count, entry.whole) == ("T", 1, True)
    assert "expected images that are in no other list" in entry.reason


@pytest.mark.parametrize("place", ["", "segmentation/", "classification/"])
def test_images_in_no_set_are_named_and_counted(tmp_path: Path, place: str) -> None:
    touch(tmp_path, "segmentation/S/imgs/a.png", "segmentation/S/masks/a.png")
    names = [f"{place}stray{n}.PNG" for n in range(6)]
    touch(tmp_path, *names)
    (tmp_path / place / "notes.txt").write_text("no image")
    (tmp_path / place / ".hidden.png").touch()
    found = read(tmp_path)
    (entry,) = found.left_out
    assert (entry.dataset, entry.count) == (NO_SET, 6)
    assert entry.reason.startswith(", ".join(f"{tmp_path}/{name}" for name in names[:5]) + " and 1 more: expected ")


def test_images_in_no_set_are_told_where_there_is_no_set(tmp_path: Path) -> None:
    touch(tmp_path, "segmentation/a.png", "segmentation/a_mask.png")
    with pytest.raises(ValueError, match=r"expected segmentation/SET/imgs and masks.* got the folders segmentation"):
        read(tmp_path)


def test_images_beside_sets_that_lie_side_by_side(tmp_path: Path) -> None:
    touch(tmp_path, "S/images/a.png", "S/masks/a.png", "other/b.png", "other/deep/c.png", "d.png")
    found = read(tmp_path)
    assert [(e.dataset, e.count) for e in found.left_out] == [(NO_SET, 1)]
    assert found.notices == [f"{tmp_path}: its folders other (2 images) belong to no set and are not read"]


@pytest.mark.parametrize("link", ["a", "z"])
def test_a_link_between_class_folders_is_named_and_counted(tmp_path: Path, link: str) -> None:
    root = tmp_path / "classification/S"
    touch(root, "ill/a.png", "ill/deep/b.png", "well/c.png")
    (root / link).symlink_to(root / "ill")
    found = classes(tmp_path)
    assert [(Path(i["image"]).name, i["class"]) for i in found.items] == [
        ("a.png", "ill"), ("b.png", "ill"), ("c.png", "well")
    ]  # fmt: skip
    (entry,) = found.left_out
    assert (entry.dataset, entry.count) == ("S", 2)
    assert entry.reason.startswith(f"{root}/{link}: expected a folder of its own, got a link to {root}/ill, ")


def test_a_folder_with_the_name_of_an_image_is_read(tmp_path: Path) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, "imgs/p.png/a.png", "masks/p.png/a.png", "imgs/x.dcm/b.png", "masks/x.dcm/b.png")
    assert pairs(read(tmp_path), root) == {
        "imgs/p.png/a.png": "masks/p.png/a.png", "imgs/x.dcm/b.png": "masks/x.dcm/b.png"
    }  # fmt: skip


def test_an_empty_set_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "segmentation/S/imgs/a.png", "segmentation/S/masks/a.png")
    (tmp_path / "segmentation/T/imgs").mkdir(parents=True)
    found = read(tmp_path)
    assert [(e.dataset, e.reason) for e in found.left_out] == [("T", f"{tmp_path}/segmentation/T: no image in it")]
    assert list(found.datasets) == ["S"]


def test_an_image_in_two_classes_keeps_both_for_the_search_of_near_duplicates(tmp_path: Path) -> None:
    touch(tmp_path, "segmentation/S/imgs/a.png", "segmentation/S/masks/a.png")
    touch(tmp_path, "classification/S/ill/a.png", "classification/S/well/a.png")
    found = read(tmp_path)
    assert [(i["class"], "label" in i) for i in found.items] == [("ill", True), ("well", False)]


def test_sets_side_by_side_and_folders_that_are_none(tmp_path: Path) -> None:
    touch(tmp_path, "S/images/a.png", "S/masks/a.png", "other/b.png")
    found = read(tmp_path)
    assert pairs(found, tmp_path) == {"S/images/a.png": "S/masks/a.png"}
    assert found.notices == [f"{tmp_path}: its folders other (1 images) belong to no set and are not read"]
    touch(tmp_path, "segmentation/S/imgs/a.png", "segmentation/S/masks/a.png")
    assert "its folders S (2 images), other (1 images) belong to no set" in read(tmp_path).notices[-1]


def test_lists_with_backslashes_folders_and_marks_are_read(tmp_path: Path) -> None:
    root = tmp_path / "segmentation/S"
    touch(root, *(f"{part}/{name}.png" for part in ("images", "masks") for name in ("p1/a", "b", "c")))
    (root / "train.txt").write_bytes(b"\xef\xbb\xbfimages\\p1\\a.png\r\n\r\n./b\r\n")
    (root / "val.txt").write_text("c.png\n")
    told = SetOptions(position={"S": "x"}, nature={"S": "tumor"}, structures={"S": {255: "cyst"}})
    found = read_folders(tmp_path, options=told, given_splits=True)
    assert {Path(i["image"]).stem: i["split"] for i in found.items} == {"a": "train", "b": "train", "c": "val"}
    assert found.left_out == []


@pytest.mark.parametrize(("value", "classes"), [(1, ["ill", "well"]), (2, ["well", "ill"])])
def test_an_image_of_one_header_but_other_values_is_another(tmp_path: Path, value: int, classes: list[str]) -> None:
    touch(tmp_path, "segmentation/S/masks/a.png")
    for place, shown in (("segmentation/S/imgs", value), ("classification/S/ill", 1), ("classification/S/well", 2)):
        in_two_parts(tmp_path / place / "a.mhd", np.full((4, 4), shown))
    assert [i["class"] for i in read(tmp_path).items] == classes
