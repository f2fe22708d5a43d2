# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bundle.data.public_sets import SetOptions, read_busi, read_folders, read_hc18


def touch(root: Path, *names: str, gray: int = 0) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), gray).save(root / name)


def by_name(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {Path(item["image"]).name: item for item in items}


def test_busi_merges_the_masks_of_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "benign/benign (1).png", "benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png")
    touch(tmp_path, "normal/normal (2).png", "normal/normal (2)_mask.png", "malignant/malignant (3).png")
    found = read_busi(tmp_path)
    items = by_name(found.items)
    assert items["benign (1).png"] == {
        "image": str(tmp_path / "benign/benign (1).png"),
        "dataset": "BUSI",
        "class": "benign",
        "patient": "BUSI/benign (1)",
        "label": [str(tmp_path / "benign/benign (1)_mask.png"), str(tmp_path / "benign/benign (1)_mask_1.png")],
    }
    assert items["normal (2).png"]["label"] == str(tmp_path / "normal/normal (2)_mask.png")
    assert [entry.reason for entry in found.left_out] == [
        f"{tmp_path / 'malignant/malignant (3).png'}: expected a mask of the name 'malignant (3)', got none"
    ]
    entry = found.datasets["BUSI"]
    assert entry["mask_values"] == {"0": "background", "255": "lesion"}
    assert (entry["position"], entry["classes"]) == ("breast", ["normal", "benign", "malignant"])


def test_hc18_reads_outlines_and_pixel_sizes_and_leaves_the_test_set_out(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"training_set/{n}.png" for n in ("010_HC", "010_2HC", "010_HC_Annotation", "010_2HC_Annotation"))
    )
    touch(tmp_path, "test_set/000_HC.png")
    (tmp_path / "training_set_pixel_size_and_HC.csv").write_text(
        "filename,pixel size(mm),head circumference (mm)\n010_HC.png,0.069,44.3\n010_2HC.png,0.07,50\n"
    )
    found = read_hc18(tmp_path)
    first = by_name(found.items)["010_HC.png"]
    assert first["label"] == str(tmp_path / "training_set/010_HC_Annotation.png")
    assert first["spacing"] == [0.069, 0.069]
    assert {item["patient"] for item in found.items} == {"HC18/010"}
    assert found.datasets["HC18"]["mask_kind"] == "outline"
    assert found.notices == [f"HC18: {tmp_path / 'test_set'} has no annotations and is left out"]
    assert len(read_hc18(tmp_path / "training_set").items) == 2


def test_a_bad_pixel_size_is_refused_by_file_and_line(tmp_path: Path) -> None:
    touch(tmp_path, "training_set/0_HC.png")
    table = tmp_path / "training_set_pixel_size_and_HC.csv"
    table.write_text("filename,pixel size(mm)\n0_HC.png,none\n")
    with pytest.raises(ValueError, match=r"HC\.csv, line 2: expected a positive pixel size in mm, got 'none'"):
        read_hc18(tmp_path)
    table.write_text("name,size\n0_HC.png,1\n")
    with pytest.raises(ValueError, match=r"HC\.csv: expected the columns 'filename' and 'pixel size\(mm\)', got"):
        read_hc18(tmp_path)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """One known set for masks, one for classes, and SET, which is in both."""
    touch(tmp_path, *(f"segmentation/USGRA/{kind}/u{i}.png" for kind in ("imgs", "masks") for i in range(2)))
    (tmp_path / "segmentation/USGRA/config.yaml").write_text("0:background:0\n1:nerve:1\n2:vessel:2\n")
    touch(
        tmp_path,
        "classification/GB_BiliaryAtresia/0/te_p0138_0.png",
        "classification/GB_BiliaryAtresia/0/te_p0138_1.png",
    )
    touch(tmp_path, "classification/GB_BiliaryAtresia/1/tr_p0138_0.png")
    touch(tmp_path, "segmentation/SET/imgs/a.png", "segmentation/SET/imgs/b.png", gray=9)
    touch(tmp_path, "segmentation/SET/masks/a.png", "segmentation/SET/masks/b.png")
    touch(tmp_path, "classification/SET/good/a.png", gray=9)
    touch(tmp_path, "classification/SET/bad/b.png", gray=50)
    return tmp_path


TOLD = SetOptions(
    position={"SET": "liver"}, nature={"SET": "unknown"}, structures={"SET": {255: "cyst"}}, patient={"GB": "(.)"}
)  # fmt: skip


def test_folders_keep_many_structures_and_number_the_classes(layout: Path) -> None:
    found = read_folders(layout, options=TOLD)
    items = by_name(found.items)
    assert found.datasets["USGRA"]["mask_values"] == {"0": "background", "1": "nerve", "2": "vessel"}
    assert items["u1.png"]["label"] == str(layout / "segmentation/USGRA/masks/u1.png")
    assert [items[n]["class"] for n in ("te_p0138_0.png", "tr_p0138_0.png")] == ["healthy", "biliary atresia"]
    patients = [items[n]["patient"] for n in ("te_p0138_0.png", "te_p0138_1.png", "tr_p0138_0.png")]
    assert patients == ["GB_BiliaryAtresia/te_p0138"] * 2 + ["GB_BiliaryAtresia/tr_p0138"]


def test_an_image_in_both_tasks_is_one_item_when_name_and_content_agree(layout: Path) -> None:
    found = read_folders(layout, options=TOLD)
    own = [item for item in found.items if item["dataset"] == "SET"]
    assert [(Path(i["image"]).name, "label" in i, i.get("class")) for i in own] == [
        ("a.png", True, "good"),
        ("b.png", True, None),
        ("b.png", False, "bad"),
    ]
    assert found.datasets["SET"] == {
        "position": "liver",
        "nature": "unknown",
        "mask_values": {"0": "background", "255": "cyst"},
        "label_set": "liver",
        "classes": ["bad", "good"],
    }


@pytest.mark.parametrize("name", ["segmentation/USGRA", "classification/GB_BiliaryAtresia"])
def test_folders_reads_the_folder_of_one_set(layout: Path, name: str) -> None:
    assert list(read_folders(layout / name).datasets) == [Path(name).name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": {}}, r"data set 'SET': expected its position, got none.*add --position SET="),
        ({"nature": {}}, r"data set 'SET': expected its nature, got none.*add --nature SET="),
        (
            {},
            r"SET: expected config.yaml .*--structure SET=255:NAME",
        ),
        (
            {"patient": {"USGRA": r"p(\d)"}, "structures": {"SET": {255: "cyst"}}},
            r"'USGRA': expected image names .* got 'u0'; .*--patient-regex 'USGRA=REGEX'",
        ),
    ],
)
def test_what_is_not_known_is_asked_for_by_option(layout: Path, options: dict[str, Any], message: str) -> None:
    told = SetOptions(**{"position": {"SET": "x"}, "nature": {"SET": "organ"}} | options)
    found = read_folders(layout, options=told)
    waiting = {entry.dataset: entry.reason for entry in found.left_out if entry.whole}
    assert re.search(message, " ".join(waiting.values()))
    assert found.datasets.keys() == {"USGRA", "GB_BiliaryAtresia", "SET"} - waiting.keys()


def waits_for(root: Path, **options: Any) -> str:
    """What has to be said of the one set below a folder."""
    (entry,) = read_folders(root, options=SetOptions(**options)).left_out
    assert entry.whole
    return entry.reason


def test_numbered_classes_need_names_and_nameless_structures_too(tmp_path: Path) -> None:
    touch(tmp_path, "classification/NEW/0/a.png", "classification/NEW/1/b.png")
    told = {"position": {"NEW": "unknown", "SEG": "liver"}, "nature": {"NEW": "organ", "SEG": "organ"}}
    reason = waits_for(tmp_path, **told)
    assert re.search(r"NEW: expected the names of the classes .*--classes NEW=NAME0,NAME1", reason)
    reason = waits_for(tmp_path, **told, classes={"NEW": ("well", "ill")})
    assert "NEW: expected the name of its label set, got none; add --label-set NEW=" in reason
    reason = waits_for(tmp_path, **told, classes={"NEW": ("well",)}, label_set={"NEW": "new"})
    assert "NEW: expected label folders 0 to 0 or ['well'], got ['0', '1']" in reason
    touch(tmp_path, "segmentation/SEG/imgs/a.png", "segmentation/SEG/masks/a.png")
    folder = tmp_path / "segmentation/SEG"
    (folder / "config.yaml").write_text("0:background:0\n1:foreground:255\n")
    reason = waits_for(folder, **told)
    assert re.search(r"config\.yaml: expected the name .* value 255, got 'foreground'.*SEG=255:NAME", reason)
    (folder / "config.yaml").write_text("background 0\n")
    reason = waits_for(folder, **told)
    assert re.search(r"config\.yaml, line 1: expected 'index:name' or .*value in the mask'.*got 'backgr", reason)


def test_given_splits_are_honored_and_unlisted_images_left_out(layout: Path) -> None:
    folder = layout / "segmentation/USGRA"
    (folder / "train.txt").write_text("u0\nimgs/absent.png\n")
    (folder / "test.txt").write_text("\n")
    found = read_folders(folder, given_splits=True)
    assert [(Path(i["image"]).stem, i["split"]) for i in found.items] == [("u0", "train")]
    assert found.notices == [f"{folder}: its lists name 1 images that are not there, or were left out"]
    assert [(entry.dataset, entry.count) for entry in found.left_out] == [("USGRA", 1)]
    assert "1 images are in none of its lists, the first" in found.left_out[0].reason
    (folder / "test.txt").write_text("u0.png\n")
    (entry,) = read_folders(folder, given_splits=True).left_out
    assert re.search(r"test\.txt: expected images .* got 'u0\.png', which train\.txt names too", entry.reason)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (read_busi, "expected the folder of BUSI that holds normal or benign or malignant"),
        (read_hc18, "expected the folder of HC18 that holds training_set"),
        (read_folders, "expected segmentation/SET/imgs and masks, or classification/SET/LABEL"),
    ],
)
def test_another_folder_is_refused(tmp_path: Path, reader: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reader(tmp_path)


def test_the_real_sets_are_read(real_data: Path) -> None:
    found = read_folders(real_data)
    heads = [item for item in found.items if item["dataset"] == "Fetal_HC"]
    assert all(0.05 < item["spacing"][0] < 1 for item in heads)
    assert len({item["patient"] for item in heads}) < len(heads)
    lungs = {item["patient"] for item in found.items if item["dataset"] == "POCUS_Lung"}
    assert "POCUS_Lung/p001" in lungs
    assert found.left_out == []
    assert read_busi(real_data / "Dataset_BUSI_with_GT").left_out == []


def test_images_beside_the_folders_of_a_release_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "busi/benign/a.png", "busi/benign/a_mask.png", "busi/b.png", "busi/Cyst/c.png")
    touch(tmp_path, "hc/training_set/0_HC.png", "hc/training_set/0_HC_Annotation.png", "hc/d.png")
    for found, name, image in (
        (read_busi(tmp_path / "busi"), "BUSI", "busi/b.png"),
        (read_hc18(tmp_path / "hc"), "HC18", "hc/d.png"),
    ):
        (entry,) = found.left_out
        assert (entry.dataset, entry.count) == (name, 1)
        assert entry.reason.startswith(f"{tmp_path / image}: expected images in the folders ")
        assert any("Cyst (1 images)" in notice for notice in found.notices) == (name == "BUSI")
