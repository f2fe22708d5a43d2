# SPDX-License-Identifier: Apache-2.0
"""Options that contradict the files or one another, and folders that are not what they seem."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.data.datalist import read_datalist
from tests.prepare_data.command import picture, prepare

TOLD = ("--position", "S=breast", "--nature", "S=tumor")


def classes(root: Path, *names: str, name: str = "S") -> Path:
    for number, label in enumerate(names):
        for i in range(6):
            picture(root / f"classification/{name}/{label}/{label}{i}.png", seed=10 * number + i)
    return root


@pytest.mark.parametrize(("mask", "suffix"), [(255, ".png"), (2, ".png"), (255, ".jpg"), (0, ".bmp")])
def test_a_folder_of_masks_of_any_name_is_no_class(tmp_path: Path, mask: int, suffix: str) -> None:
    """Where neither folder is called as ours are, both would be classes."""
    root = tmp_path / "S"
    drawn = np.zeros((60, 80), np.uint8)
    drawn[20:41, 30:61] = mask
    (root / "outline").mkdir(parents=True)
    for i in range(6):
        picture(root / f"scans/a{i}.png", seed=i)
        Image.fromarray(drawn).save(root / f"outline/a{i}{suffix}")
    done = prepare("--folders", root, *TOLD, "--output", tmp_path / "datalist.json")
    assert done.returncode == 2
    assert (
        f"got the class 'outline', of which 6 of 6 images look like masks, the first {root}/outline/a0{suffix}; put"
        in done.stderr
    )
    assert not (tmp_path / "datalist.json").exists()


def test_dark_images_are_no_masks(tmp_path: Path) -> None:
    root = classes(tmp_path, "ill", "well")
    for path in (root / "classification/S/ill").glob("*.png"):
        Image.fromarray((np.asarray(Image.open(path)) // 12).astype(np.uint8)).save(path)
    assert prepare("--folders", root, *TOLD, "--output", tmp_path / "datalist.json").returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--position", "S=lung"), "--position: expected one value for S, got 'breast' and 'lung'; remove one."),
        (("--structure", "S=1:a", "--structure", "S=1:b"), "--structure: expected one name for S=1, got 'a' and 'b'"),
        (
            ("--structure", "S=1:background"),
            "--structure: expected value 0, and no other, to be background, got 'S=1:b",
        ),
        (("--structure", "S=0:lesion"), "--structure: expected value 0, and no other, to be background, got 'S=0:l"),
        (("--structure", "S=1:$x"), "--structure: expected a name that does not begin with $, @ or %, got 'S=1:$x'"),
        (("--classes", "S=a,@b"), "--classes: expected a name that does not begin with $, @ or %, got 'S=a,@b'"),
        (
            ("--nature", "T=tumour"),
            "--nature: expected one of ['tumor', 'organ', 'unknown'], got T=tumour; correct it.",
        ),
        (
            ("--patient-regex", "S=("),
            "--patient-regex: expected a regular expression, got S=(: missing ), unterminated",
        ),
        (("--patient-regex", "S=a.*"), "--patient-regex: expected a group that is the patient"),
        (("--fractions", "nan", "nan", "nan"), "--fractions: expected three shares (train, val, test) from 0 to 1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    classes(tmp_path, "ill", "well")
    done = prepare("--folders", tmp_path, *TOLD, *options, "--output", tmp_path / "datalist.json")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_repeated_option_of_one_value_is_no_contradiction(tmp_path: Path) -> None:
    classes(tmp_path, "ill", "well")
    assert prepare("--folders", tmp_path, *TOLD, *TOLD, "--output", tmp_path / "datalist.json").returncode == 0


def test_a_number_below_zero_makes_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prepare("--no-organ", "-1", "--output", tmp_path / "datalist.json")


@pytest.mark.parametrize(
    ("kind", "option"),
    [("classes", "--structure S=1:a"), ("classes", "--mask-threshold S=9"), ("masks", "--classes S=a,b"),
     ("masks", "--label-set S=x")],
)  # fmt: skip
def test_options_of_the_other_kind_of_set_are_refused(tmp_path: Path, kind: str, option: str) -> None:
    told = list(TOLD)
    if kind == "classes":
        classes(tmp_path, "ill", "well")
    else:
        picture(tmp_path / "segmentation/S/imgs/a.png", seed=0)
        (tmp_path / "segmentation/S/masks").mkdir()
        Image.new("L", (80, 60)).save(tmp_path / "segmentation/S/masks/a.png")
        told += ["--structure", "S=255:lesion"]
    done = prepare("--folders", tmp_path, *told, *option.split(), "--output", tmp_path / "datalist.json")
    assert done.returncode == 2
    assert f"expected no {option.split()[0]} for S, which was read as a set of {kind}" in done.stderr


@pytest.mark.parametrize(("name", "label"), [("S", "$mal"), ("@S", "mal"), ("S", "_target_")])
def test_a_name_that_a_config_would_execute_costs_its_own_set_alone(tmp_path: Path, name: str, label: str) -> None:
    classes(classes(tmp_path, "ill", "well", name="T"), "ben", label, name=name)
    told = [text.replace("S=", f"{one}=") for one in (name, "T") for text in TOLD]
    done = prepare("--folders", tmp_path, *told, "--output", tmp_path / "datalist.json")
    assert done.returncode == 1
    assert "does not begin with $, @ or %" in done.stderr
    assert list(read_datalist(tmp_path / "datalist.json")["datasets"]) == ["T"]


def half_masks(root: Path, *, word: str, masks: int) -> Path:
    """Patients of two images each, the first of which have a mask of a name that says nothing."""
    drawn = np.zeros((60, 80), np.uint8)
    drawn[20:41, 30:61] = 255
    for n in range(6):
        for i in range(2):
            picture(root / f"p{n}/img{i}.png", seed=10 * n + i)
        if n < masks:
            Image.fromarray(drawn).save(root / f"p{n}/img0{word}.png")
            Image.fromarray(drawn).save(root / f"p{n}/img1{word}.png")
    return root


@pytest.mark.parametrize("word", ["_roi", "Mask", "_1"])
def test_folders_whose_images_are_half_masks_are_no_classes(tmp_path: Path, word: str) -> None:
    root = half_masks(tmp_path / "S", word=word, masks=6)
    done = prepare("--folders", root, *TOLD, "--output", tmp_path / "datalist.json")
    assert done.returncode == 2
    told = f"got the class 'p0', of which 2 of 4 images look like masks, the first {root}/p0/img0{word}.png; "
    assert told in done.stderr
    assert not (tmp_path / "datalist.json").exists()


def test_a_few_images_of_a_class_that_look_like_masks_are_noted(tmp_path: Path) -> None:
    classes(tmp_path, "ill", "well")
    path = tmp_path / "classification/S/ill/ill3.png"
    Image.new("L", (80, 60), 255).save(path)
    done = prepare("--folders", tmp_path, *TOLD, "--output", tmp_path / "datalist.json")
    assert done.returncode == 0
    assert f"note: S: 1 images of its classes look like masks or are blank, the first {path}; remove" in done.stdout


def test_patients_of_an_image_and_a_mask_become_masks(tmp_path: Path) -> None:
    for n in range(8):
        picture(tmp_path / f"S/patient{n}/image.png", seed=n)
        Image.new("L", (80, 60), 255 * (n % 2)).save(tmp_path / f"S/patient{n}/mask.png")
    told = (*TOLD, "--structure", "S=255:lesion")
    done = prepare("--folders", tmp_path / "S", *told, "--output", tmp_path / "datalist.json")
    assert done.returncode == 0, done.stderr
    assert all("label" in item and "class" not in item for item in read_datalist(tmp_path / "datalist.json")["items"])
