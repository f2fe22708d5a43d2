# SPDX-License-Identifier: Apache-2.0
"""Saved labels: which are understood, which are left out and why, and which are kept aside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from bundle.data.labels import Labels, aside_names, divide
from bundle.transforms.saved_labels import SavedLabelReader
from tests.transforms.made_files import in_two_parts

STRUCTURES = ["background", "lesion", "head", "nerve", "vessel"]
Save = Callable[..., dict[str, str]]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves an image of 20 x 30 and its label, pixels or the content of a file, as MONAI Label's folder holds them."""
    (tmp_path / "labels/final").mkdir(parents=True)

    def write(name: str, label: Any = 1, *, suffix: str = ".png", mode: str | None = None) -> dict[str, str]:
        image, path = tmp_path / f"{name}.png", tmp_path / f"labels/final/{name}{suffix}"
        Image.new("L", (30, 20), 90).save(image)
        if isinstance(label, int):
            value, label = label, np.zeros((20, 30), np.uint16 if label > 255 else np.uint8)
            label[5:9, 6:12] = value
        if isinstance(label, bytes):
            path.write_bytes(label)
        elif suffix == ".nii.gz":
            nibabel.save(nibabel.Nifti1Image(label.T[..., None], np.eye(4)), path)
        else:
            picture = Image.fromarray(label)
            (picture.convert(mode) if mode else picture).save(path)
        return {"image": str(image), "label": str(path)}

    return write


def divided(*items: dict[str, str], structures: list[str] = STRUCTURES, val: int = 0, **options: Any) -> Labels:
    given = list(items)
    defaults: dict[str, Any] = {"share": 0.2, "steps_per_epoch": 10, "batch_size": 8, "samples_per_epoch": None}
    reader = SavedLabelReader(structures)
    return divide(given[val:], given[:val], reader=reader, **{**defaults, **options})


def table(labels: Labels, name: str) -> dict[int, int]:
    """Value in the file -> structure index, of the label of an image."""
    (found,) = (i["mask_values"] for i in (*labels.train, *labels.aside) if Path(i["image"]).stem == name)
    return dict(found)


COLORS = np.zeros((20, 30, 3), np.uint8)
COLORS[5:9, 6:12, 0] = 255

WRONG = {
    "size": (np.ones((15, 30), np.uint8), r"bad\.png: mask must have the size of its image .*bad\.png, 20x30 .*15x30"),
    "colors": (COLORS, r"labels/final/bad\.png: mask must hold one value a pixel, got colors; save it as 8-bit grey"),
    "7": (7, r"bad\.png: label values must be 0 background, 1 lesion, 2 head, 3 nerve, 4 vessel, got 7; save it with"),
    "128": (128, r"label values must be 0 background, .*, got 128"),
    "1 and 255": (np.array([[0, 1, 255]] * 20, np.uint8).repeat(10, 1), r"label values must be .*, got 255"),
    "many": (np.arange(600, dtype=np.uint16).reshape(20, 30), r"got 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 and 585 more"),
    "text": (b"no mask at all", r"labels/final/bad\.png: must be a readable image of type \.png"),
    "nothing": (b"", r"labels/final/bad\.png: file must hold an image, got 0 bytes"),
    "half": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", r"labels/final/bad\.png"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_label_is_left_out_and_named_with_what_it_should_be(
    save: Save, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    content, message = WRONG[kind]
    labels = divided(save("a"), save("bad", content), save("b", 2))
    assert {Path(item["image"]).stem for item in (*labels.train, *labels.aside)} == {"a", "b"}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(*labels.left_out)
    assert f"label left out: {labels.left_out[0]}" in caplog.text
    assert labels.summary().endswith("1 left out")


def test_wrong_images_are_left_out(save: Save) -> None:
    missing, turned = save("missing"), save("turned")
    Path(missing["image"]).unlink()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("L", (30, 20)).save(turned["image"], format="JPEG", exif=exif)
    labels = divided(missing, turned, save("a"), save("b"))
    assert "missing.png: file must exist, found none" in labels.left_out[0]
    assert "turned.png: image must be stored upright, got an EXIF orientation" in labels.left_out[1]
    assert len(labels.train) + len(labels.aside) == 2


GOOD: dict[str, tuple[Any, dict[str, Any], int]] = {
    "empty": (np.zeros((20, 30), np.uint8), {}, 0),
    "gray as RGB": (4, {"mode": "RGB"}, 4),
    "NIfTI": (3, {"suffix": ".nii.gz"}, 3),
    "NIfTI of floats": (np.full((20, 30), 2.0, np.float32), {"suffix": ".nii.gz"}, 2),
    "one bit": (255, {"mode": "1"}, 1),
}


@pytest.mark.parametrize("kind", GOOD)
def test_labels_of_many_forms_are_understood(save: Save, kind: str) -> None:
    content, options, index = GOOD[kind]
    labels = divided(save("a"), save("good", content, **options))
    assert labels.left_out == []
    assert table(labels, "good")[index] == index


# -- 0 and 255 ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("white", [255, 65535])
def test_white_is_the_structure_that_the_other_labels_show(save: Save, white: int) -> None:
    labels = divided(save("a", 3), save("b", 3), save("white", white))
    assert table(labels, "white") == {0: 0, white: 3}
    assert labels.notes == ["labels of 0 and 255 are taken for nerve, which the other labels show (1): white.png"]


def test_white_in_colors_is_white(save: Save) -> None:
    labels = divided(save("a", 2), save("white", 255, mode="RGB"))
    assert table(labels, "white") == {0: 0, 255: 2}


def test_white_alone_is_the_first_structure_and_says_so(save: Save) -> None:
    labels = divided(save("a", 255), save("b", 255))
    assert [table(labels, name) for name in "ab"] == [{0: 0, 255: 1}] * 2
    assert "taken for lesion, the network's first structure, as nothing says another (2): a.png, b.png" in str(
        labels.notes
    )


def test_white_is_left_out_where_the_labels_show_several_structures(save: Save) -> None:
    labels = divided(save("a", 1), save("b", 2), save("white", 255))
    assert len(labels.left_out) == 1
    assert "white.png: label values must be 0 background, 1 lesion, 2 head" in labels.left_out[0]


def name_labels(folder: Path, named: dict[str, list[dict[str, Any]]]) -> None:
    """MONAI Label's table of the studies, with what clients sent along."""
    objects = {
        name: {"image": {"ext": ".png", "info": {}}, "labels": {"final": {"ext": ".png", "info": {"label_info": info}}}}
        for name, info in named.items()
    }
    (folder / "datastore_v2.json").write_text(json.dumps({"name": "studies", "objects": objects}))


def test_names_that_the_client_sent_go_before_values(save: Save, tmp_path: Path) -> None:
    """3D Slicer numbers its segments in their order: without the first one, head and nerve are 1 and 2."""
    name_labels(
        tmp_path,
        {
            "white": [{"name": "Vessel", "idx": 1}],
            "slicer": [{"name": "head", "idx": 1}, {"name": "nerve", "idx": 2}],
            "strange": [{"name": "cyst", "idx": 1}, "x", {"idx": 2}, {"name": "head", "idx": "2"}],
        },
    )
    labels = divided(save("a", 1), save("b", 2), save("white", 255), save("slicer", 2), save("strange", 2))
    assert labels.left_out == []
    assert table(labels, "white") == {0: 0, 255: 4}
    assert (table(labels, "slicer")[1], table(labels, "slicer")[2]) == (2, 3)
    assert table(labels, "strange")[2] == 2
    assert labels.notes == ["labels of 0 and 255 are taken for vessel, which was named with them (1): white.png"]


def test_a_value_named_as_no_structure_of_the_network_is_left_out(save: Save, tmp_path: Path) -> None:
    cyst = [{"name": "cyst", "idx": 1}]
    name_labels(tmp_path, {"bad": cyst, "white": cyst, "other": [*cyst, {"name": "head", "idx": 2}], "empty": cyst})
    given = (
        save("a", 1),
        save("bad", 1),
        save("white", 255),
        save("other", 2),
        save("empty", np.zeros((20, 30), np.uint8)),
    )
    labels = divided(*given)
    assert {Path(i["image"]).stem for i in (*labels.train, *labels.aside)} == {"a", "other", "empty"}
    bad, white = labels.left_out
    expected = "names of label values (label_info) must be lesion, head, nerve, vessel, got cyst for value"
    assert f"labels/final/bad.png: {expected} 1; save it with one of these names" in bad
    assert f"labels/final/white.png: {expected} 255; save it" in white


@pytest.mark.parametrize("content", ["", "{", "[]", '{"objects": {"a": null}}'])
def test_a_table_that_cannot_be_read_leaves_the_values(save: Save, tmp_path: Path, content: str) -> None:
    (tmp_path / "datastore_v2.json").write_text(content)
    assert table(divided(save("a", 1), save("b", 2)), "b")[2] == 2


# -- kept aside -----------------------------------------------------------------------------------------------------
def test_a_share_is_kept_aside_whatever_the_client_splits(save: Save) -> None:
    items = [save(f"image{i}") for i in range(10)]
    found = [divided(*items, val=val) for val in (0, 2, 5, 9)]
    assert all(labels.aside == found[0].aside for labels in found)
    assert 1 <= len(found[0].aside) <= 5
    for labels in found:
        assert len(labels.train) + len(labels.aside) == 10
        assert not {item["image"] for item in labels.train} & {item["image"] for item in labels.aside}


def test_a_label_stays_on_its_side_when_others_come() -> None:
    names = [f"patient {i}.png" for i in range(1000)]
    before, after = aside_names(names[:200], 0.2), aside_names(names, 0.2)
    assert before == after & set(names[:200])
    assert 150 <= len(after) <= 250


@pytest.mark.parametrize(("count", "expected"), [(1, {0}), (2, {1}), (3, {1}), (10, {1, 2, 3, 4, 5})])
def test_of_two_labels_one_is_kept_aside_and_never_more_than_half(count: int, expected: set[int]) -> None:
    found = {len(aside_names([f"{seed}-{i}" for i in range(count)], 0.2)) for seed in range(100)}
    assert found <= expected
    assert max(expected) > 1 or found == expected


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"labels_aside must be a share between 0 and 1, got "):
        aside_names(["a", "b"], share)


def test_an_epoch_is_a_number_of_steps_however_many_labels_there_are(save: Save) -> None:
    few, many = divided(save("a"), save("b")), divided(*(save(f"{i}") for i in range(30)))
    assert few.samples_per_epoch == many.samples_per_epoch == 80
    assert divided(save("a"), save("b"), samples_per_epoch=5).samples_per_epoch == 5


def test_items_of_a_manifest_pass(save: Save) -> None:
    items = [{**save("a"), "dataset": "BUSI"}]
    options: dict[str, Any] = {"share": 0.2, "steps_per_epoch": 10, "batch_size": 8, "samples_per_epoch": None}
    labels = divide(items, [], reader=SavedLabelReader(STRUCTURES), **options)
    assert labels == Labels(items)
    assert labels.train is items


def test_the_bundles_own_validation_data_choose_the_epoch(save: Save) -> None:
    """``val_split`` -1."""
    own = [{**save("own"), "dataset": "BUSI"}]
    options: dict[str, Any] = {"share": 0.2, "steps_per_epoch": 10, "batch_size": 8, "samples_per_epoch": None}
    labels = divide([save("a"), save("b")], own, reader=SavedLabelReader(STRUCTURES), **options)
    assert labels.validated
    assert {Path(item["image"]).stem for item in (*labels.train, *labels.aside)} == {"a", "b"}
    assert not divided(save("a"), save("b")).validated


def test_the_digest_changes_with_labels_images_and_names(save: Save, tmp_path: Path) -> None:
    first = [save("a"), save("b")]
    digests = [divided(*first).digest, divided(*reversed(first)).digest]
    assert digests[0] == digests[1] != ""
    Image.new("L", (30, 20), 91).save(first[0]["image"])
    digests.append(divided(*first).digest)
    digests.append(divided(first[0], save("b", 2)).digest)
    name_labels(tmp_path, {"b": [{"name": "vessel", "idx": 2}]})
    digests.append(divided(*first).digest)
    assert len(set(digests)) == 4


def test_the_digest_changes_with_values_beside_a_header(save: Save, tmp_path: Path) -> None:
    label = save("a")
    digests = []
    for value in (90, 91):
        label["image"] = str(in_two_parts(tmp_path / "a.mhd", np.full((20, 30), value)))
        digests.append(divided(label).digest)
    assert "" not in digests
    assert len(set(digests)) == 2
