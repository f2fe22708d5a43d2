# SPDX-License-Identifier: Apache-2.0
"""Which folders are sets, where nothing is named segmentation or classification: patients, parts of a set, sites."""

from pathlib import Path

import pytest

from bundle.data.folders import read_folders
from bundle.data.known_sets import PublicSet, SetOptions
from tests.data.test_folders import pairs, touch


def read(folder: Path, **told: str) -> PublicSet:
    """Sets of which nothing is missing, whatever their names are; ``told`` by name: a structure."""
    names = ["root", "segmentation", "classification", "SET", "A", "B", "p0", "p1"]
    options = SetOptions(
        position=dict.fromkeys(names, "liver"),
        nature=dict.fromkeys(names, "tumor"),
        structures={name: {255: structure} for name, structure in told.items()},
    )
    return read_folders(folder, options=options)


def cyst(root: Path, *names: str, **told: str) -> dict[str, str]:
    """Image -> mask below ``root`` of files that are all to be used, read as sets of a structure."""
    root = root / "root"
    touch(root, *names)
    found = read(root, **dict.fromkeys(told.get("sets", "root").split(), "cyst"))
    assert found.left_out == []
    assert {item["dataset"] for item in found.items} == set(told.get("sets", "root").split())
    return pairs(found, root)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("image.png", "mask.png"),
        ("IMG.png", "Mask.bmp"),
        ("scan.png", "ground_truth.png"),
        ("US 3.png", "gtruth.png"),
        ("images/image.png", "masks/mask.png"),
    ],
)
@pytest.mark.parametrize("site", ["", "A/"])
def test_a_mask_without_a_name_of_its_own_is_that_of_the_only_image_beside_it(
    tmp_path: Path, site: str, image: str, mask: str
) -> None:
    folders = [f"{site}p{n}" for n in range(3)]
    sets = {"sets": "A"} if site and "/" in image else {}
    if "/" in image and not site:
        sets = {"sets": "p0 p1"}  # folders that hold images and masks are a set each
        folders = folders[:2]
    found = cyst(tmp_path, *(f"{folder}/{name}" for folder in folders for name in (image, mask)), **sets)
    assert found == {f"{folder}/{image}": f"{folder}/{mask}" for folder in folders}


def test_images_and_masks_of_a_patients_folder_are_of_one_patient(tmp_path: Path) -> None:
    touch(tmp_path / "root", *(f"p{n}/{name}.png" for n in range(2) for name in ("image", "mask_1", "mask_2")))
    found = read(tmp_path / "root", root="cyst")
    assert [item["patient"] for item in found.items] == ["root/p0", "root/p1"]
    assert [len(item["label"]) for item in found.items] == [2, 2]


def test_a_numbered_mask_is_not_that_of_an_image_with_another_number(tmp_path: Path) -> None:
    touch(tmp_path / "root", *(f"p{n}/{name}.png" for n in range(2) for name in ("image_3", "mask_4")))
    found = read(tmp_path / "root", root="cyst")
    assert found.items == []
    assert sum(entry.count for entry in found.left_out) == 4


def test_patients_with_masks_beside_are_masks_where_a_structure_is_told(tmp_path: Path) -> None:
    names = [f"p{n}/img{i}{word}.png" for n in range(2) for i in range(2) for word in ("", "_gtruth")]
    touch(tmp_path / "root", *names)
    found = read(tmp_path / "root")
    (entry, *_) = found.left_out
    assert "p0/img0_gtruth.png" in entry.reason
    assert entry.reason.endswith(
        f"where the folders are patients, --folders {tmp_path}/root with --structure root=255:NAME"
    )
    assert sum(entry.count for entry in found.left_out) == 4
    assert len(cyst(tmp_path, *names)) == 4
    assert len(cyst(tmp_path, *names, sets="p0 p1")) == 4


@pytest.mark.parametrize("parts", ["train val test", "Training testing"])
@pytest.mark.parametrize("form", ["images/{}.png masks/{}.png", "{}.png {}_mask.png"])
def test_folders_named_after_splits_are_parts_of_one_set(tmp_path: Path, parts: str, form: str) -> None:
    names = [f"{part}/{name}" for part in parts.split() for name in form.format(part, part).split()]
    for root, name in ((tmp_path / "root", "root"), (tmp_path / "all/segmentation", "segmentation")):
        touch(root, *names)
        found = read(root if name == "root" else root.parent, **{name: "cyst"})
        assert [item["dataset"] for item in found.items] == [name] * len(parts.split())
        assert found.left_out == []
        told = ", ".join(sorted(parts.split()))
        assert f"{name}: its folders {told} are read together, not as its split; for that, name" in found.notices[0]


def test_classes_in_folders_named_after_splits_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"classification/{part}/{name}/a.png" for part in ("train", "test") for name in ("ill", "well")))
    found = read(tmp_path)
    assert found.items == []
    assert sum(entry.count for entry in found.left_out) == 4
    assert all("to hold a folder a class, got test, train;" in entry.reason for entry in found.left_out)


def test_a_folder_named_after_a_split_beside_sets_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"segmentation/{name}/{part}/a.png" for name in ("A", "test") for part in ("imgs", "masks")))
    with pytest.raises(ValueError, match=r"segmentation: expected sets, or the parts of one set, got test beside A; "):
        read(tmp_path)


def test_an_image_beside_the_parts_of_a_set_is_counted_once(tmp_path: Path) -> None:
    touch(tmp_path, "segmentation/a.png", *(f"segmentation/train/{part}/a.png" for part in ("imgs", "masks")))
    found = read(tmp_path, segmentation="cyst")
    assert [entry.count for entry in found.left_out] == [1]


@pytest.mark.parametrize("site", ["", "siteA/"])
@pytest.mark.parametrize("image_and_mask", ["x.png x_mask.png", "images/x.png masks/x.png"])
def test_a_folder_of_one_set_is_read(tmp_path: Path, site: str, image_and_mask: str) -> None:
    image, mask = image_and_mask.split()
    sets = "SET"
    found = cyst(tmp_path, f"SET/{site}{image}", f"SET/{site}{mask}", sets=sets)
    assert found == {f"SET/{site}{image}": f"SET/{site}{mask}"}


def test_sites_of_several_sets_are_theirs(tmp_path: Path) -> None:
    names = [f"{name}/{site}/{part}/x.png" for name in "AB" for site in ("s1", "s2") for part in ("images", "masks")]
    assert len(cyst(tmp_path, *names, sets="A B")) == 4


def test_folders_of_images_alone_are_classes_though_they_lie_deep(tmp_path: Path) -> None:
    touch(tmp_path / "root", "ill/p1/images/a.png", "well/p2/images/a.png")
    found = read(tmp_path / "root")
    assert [item["class"] for item in found.items] == ["ill", "well"]
