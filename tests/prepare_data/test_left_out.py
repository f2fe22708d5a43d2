# SPDX-License-Identifier: Apache-2.0
"""What the command leaves out or notes, and the reasons that it gives."""

import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import ExifTags, Image

from bundle.data.datalist import load_split, read_datalist
from bundle.transforms import LoadMaskd
from bundle.vocabulary import Organs
from tests.prepare_data.command import picture, prepare


def test_masks_of_another_scale_are_noted_and_of_other_proportions_left_out(folders: Path, tmp_path: Path) -> None:
    masks = folders / "segmentation/USGRA/masks"
    Image.new("L", (119, 89)).save(masks / "u1.png")
    Image.new("L", (60, 80)).save(masks / "u2.png")
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json", "--skip-unreadable")
    assert done.returncode == 0
    assert "USGRA: 1 masks have another size than their image" in done.stdout
    assert "u2.png: mask must have the size of its image" in done.stderr
    assert "60x80 (rows x columns), got 80x60" in done.stderr
    manifest = read_datalist(tmp_path / "datalist.json")
    assert manifest["datasets"]["USGRA"]["mask_scaled"] is True
    assert len(manifest["items"]) == 9


def test_masks_fit_the_image_as_it_is_turned_upright(folders: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    images, masks = (folders / "segmentation/USGRA" / name for name in ("imgs", "masks"))
    for name in ("u1.png", "u2.png"):  # 80 x 60 as stored, 60 x 80 upright
        with Image.open(images / name) as image:
            image.save(images / name, exif=exif)
    Image.new("L", (60, 80)).save(masks / "u1.png")
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json", "--skip-unreadable")
    assert done.returncode == 0
    assert "u2.png: mask must have the size of its image" in done.stderr
    assert "80x60 (rows x columns), got 60x80" in done.stderr
    assert "u1.png" not in done.stderr


def test_files_that_cannot_be_read_are_named_and_left_out(folders: Path, tmp_path: Path) -> None:
    images = folders / "segmentation/USGRA/imgs"
    (images / "u1.png").write_bytes(b"")
    (images / "u2.png").write_bytes((images / "u3.png").read_bytes()[:900])
    (images / "u4.png").unlink()
    (images / "u4.png").mkdir()  # an empty folder, so that its mask has no image
    (folders / "segmentation/USGRA/masks/u5.png").write_text("text")
    output = tmp_path / "datalist.json"
    done = prepare("--folders", folders, "--output", output)
    assert done.returncode == 1
    for name, reason in {
        "imgs/u1": "0 bytes",
        "imgs/u2": "the PNG is cut",
        "masks/u4": "expected an image of the name 'u4'",
        "masks/u5": "damaged format",
    }.items():
        assert any(f"{name}.png: " in line and reason in line for line in done.stderr.splitlines())
    assert "--skip-unreadable" in done.stderr
    assert len(read_datalist(output)["items"]) == 6
    assert prepare("--folders", folders, "--output", output, "--overwrite", "--skip-unreadable").returncode == 0


TOLD = ("--position", "S=breast", "--nature", "S=tumor", "--structure", "S=255:lesion")


def test_jpeg_masks_are_named_and_a_threshold_makes_them_readable_in_training(jpeg: Path, tmp_path: Path) -> None:
    output = tmp_path / "datalist.json"
    refused = prepare("--folders", jpeg, "--output", output, *TOLD)
    assert refused.returncode == 2
    assert refused.stdout.splitlines()[1].split()[:3] == ["S", "0", "4"]
    assert refused.stderr.count("add --mask-threshold S=128") == 4
    assert not output.exists()
    done = prepare("--folders", jpeg, "--output", output, *TOLD, "--mask-threshold", "S=128")
    assert done.returncode == 0, done.stderr
    assert read_datalist(output)["datasets"]["S"]["mask_threshold"] == 128
    organs = Organs({"breast": {"structures": ["lesion"]}, "indis": {}})
    item = LoadMaskd(num_structures=2)(load_split(output, split="train", organs=organs)[0])
    assert abs(int(item["label"].sum()) - 21 * 31) < 20


def test_what_training_cannot_read_is_left_out_and_counted(jpeg: Path, tmp_path: Path) -> None:
    folder = jpeg / "segmentation/S"
    mask = np.zeros((60, 80), np.uint8)
    for i in range(4):
        (folder / f"masks/a{i}.jpg").unlink()
        Image.fromarray(mask + 7 * (i == 0)).save(folder / f"masks/a{i}.bmp")
    pages = [Image.open(folder / f"images/a{i}.png") for i in (1, 2)]
    pages[0].save(folder / "images/a1.tif", save_all=True, append_images=pages[1:])
    (folder / "images/a1.png").unlink()
    whole = (folder / "masks/a2.bmp").read_bytes()
    (folder / "masks/a2.bmp").write_bytes(whole[:3000])
    output = tmp_path / "datalist.json"
    done = prepare("--folders", jpeg, "--output", output, *TOLD)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split()[:3] == ["S", "1", "3"]
    for name, reason in {"a0.bmp": "got [7]", "a1.tif": "got 2 frames", "a2.bmp": "truncated"}.items():
        assert any(name in line and reason in line for line in done.stderr.splitlines())
    assert prepare("--folders", jpeg, "--output", output, "--overwrite", "--skip-unreadable", *TOLD).returncode == 0


def test_masks_that_lie_elsewhere_are_left_out_and_mirrored_ones_turned(tmp_path: Path) -> None:
    folder, output = tmp_path / "root/segmentation/S", tmp_path / "datalist.json"
    (folder / "masks").mkdir(parents=True)
    mask = np.zeros((80, 60), np.uint8)  # x first
    mask[10:41, 20:41] = 255
    for i, spacing in enumerate([0.2, 0.2, 0.3, 0.2]):
        picture(tmp_path / f"a{i}.png", seed=i)
        image = np.asarray(Image.open(tmp_path / f"a{i}.png")).T
        (folder / "images").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(image.copy(), np.diag([-0.2, -0.2, 1, 1])), folder / f"images/a{i}.nii.gz")
        mirrored = np.diag([spacing, -spacing, 1, 1])
        nibabel.save(nibabel.Nifti1Image(mask[::-1].copy(), mirrored), folder / f"masks/a{i}.nii.gz")
    done = prepare("--folders", tmp_path / "root", "--output", output, *TOLD)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split()[:3] == ["S", "3", "1"]
    assert "masks/a2.nii.gz: mask must lie on its image" in done.stderr
    assert "expected pixels of 0.2 x 0.2 mm, got 0.3 x 0.3; resample it to its image" in done.stderr
    organs = Organs({"breast": {"structures": ["lesion"]}, "indis": {}})
    for split in ("train", "val", "test"):
        for item in load_split(output, split=split, organs=organs):
            assert np.array_equal(LoadMaskd(num_structures=2)(item)["label"][0].numpy(), mask.T // 255)


def beside(folders: Path, name: str, *, seed: int) -> Path:
    """A set of four images beside USGRA, whose masks show a structure of value 255."""
    folder = folders / "segmentation" / name
    (folder / "masks").mkdir(parents=True)
    for i in range(4):
        picture(folder / f"images/a{i}.png", seed=seed + i)
        Image.new("L", (80, 60), 255).save(folder / f"masks/a{i}.png")
    return folder


def test_a_set_without_its_options_is_left_out_and_the_others_are_written(folders: Path, tmp_path: Path) -> None:
    beside(folders, "B c", seed=50)
    output = tmp_path / "datalist.json"
    done = prepare("--folders", folders, "--output", output, "--skip-unreadable")
    assert done.returncode == 1
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["B", "c", "0", "4"] in [line[:4] for line in lines]
    assert ["total", "10", "4"] in [line[:3] for line in lines]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: left out until you say more of it: the set B c (4 images). data set 'B c': ")
    for told in ("--position 'B c=breast'", "--nature 'B c=tumor'", "--structure 'B c=255:NAME'"):
        assert told in last
    assert {item["dataset"] for item in read_datalist(output)["items"]} == {"USGRA"}


@pytest.mark.parametrize("name", ["My set=1,#$x", "a=b=2:c", "it's ="])
def test_the_printed_options_work_when_they_are_pasted(folders: Path, tmp_path: Path, name: str) -> None:
    beside(folders, name, seed=50)
    output = tmp_path / "datalist.json"
    asked = prepare("--folders", folders, "--output", output, "--skip-unreadable")
    typed = re.findall(r"--[a-z]+ (?:'[^']*'|\"'\"|[^' ])+", asked.stderr.splitlines()[-1].replace("NAME", "lesion"))
    words = shlex.split(" ".join(typed).rstrip("."))
    assert [word for word in words if word.startswith("--")] == ["--position", "--nature", "--structure"]
    done = prepare("--folders", folders, "--output", output, "--overwrite", *words)
    assert done.returncode == 0, done.stderr
    assert read_datalist(output)["datasets"][name]["mask_values"] == {"0": "background", "255": "lesion"}


def test_an_unmarked_sign_in_a_name_is_explained(folders: Path, tmp_path: Path) -> None:
    beside(folders, "My set=1", seed=50)
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json", "--position", "My set=1=breast")
    assert done.returncode == 2
    assert "got ['My set']; correct the names (an = in a name is written \\=)." in done.stderr


def test_with_no_set_left_all_that_is_missing_is_listed_and_nothing_is_written(folders: Path, tmp_path: Path) -> None:
    beside(folders, "B", seed=50)
    beside(folders, "C", seed=60)
    shutil.rmtree(folders / "segmentation/USGRA")
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json")
    assert done.returncode == 2
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:3]] == [["B", "0", "4"], ["C", "0", "4"]]
    for name in "BC":
        for told in (f"--position {name}=breast", f"--nature {name}=tumor", f"--structure {name}=255:NAME"):
            assert done.stderr.count(told) == 1
    assert not (tmp_path / "datalist.json").exists()


def test_a_misspelled_set_is_told_with_what_is_missing(folders: Path, tmp_path: Path) -> None:
    beside(folders, "B", seed=50)
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json", "--position", "b=breast")
    assert done.returncode == 2
    assert "add --position B=breast --nature B=tumor" in done.stderr
    assert "about the data sets ['B', 'USGRA'], got ['b']; correct the names." in done.stderr


@pytest.mark.parametrize("place", [".", "segmentation", "classification"])
def test_an_image_in_no_set_is_counted_and_the_rest_is_written(folders: Path, tmp_path: Path, place: str) -> None:
    picture(folders / place / "stray.png", seed=70)
    output = tmp_path / "datalist.json"
    done = prepare("--folders", folders, "--output", output)
    assert done.returncode == 1
    assert ["(no", "set)", "0", "1"] in [line.split()[:4] for line in done.stdout.splitlines()]
    assert f"left out: {(folders / place / 'stray.png').resolve()}: expected images in a set" in done.stderr
    assert len(read_datalist(output)["items"]) == 10
    assert prepare("--folders", folders, "--output", output, "--overwrite", "--skip-unreadable").returncode == 0


@pytest.mark.parametrize("link", ["a.png", "z.png"])
def test_a_link_from_class_to_class_is_left_out_and_the_file_is_kept(tmp_path: Path, link: str) -> None:
    folder = tmp_path / "root/classification/GB_BiliaryAtresia"
    for seed, (label, name) in enumerate([("0", "te_p1_m"), ("1", "tr_p2_m"), ("1", "tr_p3_m")]):
        picture(folder / label / f"{name}.png", seed=seed)
    (folder / "0" / f"te_p1_{link}").symlink_to(folder / "1/tr_p2_m.png")
    output = tmp_path / "datalist.json"
    done = prepare("--folders", tmp_path / "root", "--output", output)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split()[:3] == ["GB_BiliaryAtresia", "3", "1"]
    assert f"te_p1_{link}: expected each image once, got a link to one that is read already" in done.stderr
    found = {Path(item["image"]).name: item["class"] for item in read_datalist(output)["items"]}
    assert found == {"te_p1_m.png": "healthy", "tr_p2_m.png": "biliary atresia", "tr_p3_m.png": "biliary atresia"}


def test_a_set_that_is_a_link_to_another_is_left_out(folders: Path, tmp_path: Path) -> None:
    (folders / "segmentation/Again").symlink_to(folders / "segmentation/USGRA")
    told = ("--position", "Again=limb", "--nature", "Again=organ")
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json", *told)
    assert done.returncode == 1
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:3]] == [["Again", "0", "10"], ["USGRA", "10", "0"]]


def test_empty_masks_and_structures_that_no_mask_shows_are_noted(folders: Path, tmp_path: Path) -> None:
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json")
    assert done.returncode == 0
    note = "note: USGRA: all 10 masks are empty, its images only teach where no nerve or vessel is; correct"
    assert note in done.stdout
    Image.new("L", (80, 60), 2).save(folders / "segmentation/USGRA/masks/u3.png")
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json", "--overwrite")
    assert done.returncode == 0
    assert "note: USGRA: none of its 10 masks shows nerve\n" in done.stdout
    assert "are empty" not in done.stdout


@pytest.mark.parametrize("full", [4, 3])
def test_full_masks_are_noted(jpeg: Path, tmp_path: Path, full: int) -> None:
    for i, file in enumerate(sorted((jpeg / "segmentation/S/masks").iterdir())):
        file.unlink()
        Image.new("L", (80, 60), 255 * (i < full)).save(file.with_suffix(".png"))
    done = prepare("--folders", jpeg, "--output", tmp_path / "datalist.json", *TOLD)
    assert done.returncode == 0
    assert (full == 4) == ("note: S: all 4 masks are full, every pixel is lesion; correct the masks" in done.stdout)


def test_values_outside_the_table_come_with_the_option_to_give(folders: Path, tmp_path: Path) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[0, :5] = [1, 7, 8, 9, 10]
    Image.fromarray(mask).save(folders / "segmentation/USGRA/masks/u3.png")
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json")
    assert done.returncode == 1
    assert "data list" not in done.stderr
    assert (
        "got [7, 8, 9, 10]; where they are structures, add --structure USGRA=7:NAME --structure USGRA=8:NAME "
        "--structure USGRA=9:NAME, or correct the mask.\n"
    ) in done.stderr


def test_a_stray_value_beside_one_structure_may_be_blur_or_a_structure(jpeg: Path, tmp_path: Path) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[0, :2] = [7, 255]
    for file in (jpeg / "segmentation/S/masks").iterdir():
        file.unlink()
        Image.fromarray(mask).save(file.with_suffix(".png"))
    done = prepare("--folders", jpeg, "--output", tmp_path / "datalist.json", *TOLD)
    assert done.stderr.count("got [7]; where compression or resampling blurred it, add --mask-threshold S=128") == 4
    assert done.stderr.count("count), where they are structures, add --structure S=7:NAME, or correct the mask.") == 4
