# SPDX-License-Identifier: Apache-2.0
import copy
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bundle.data.datalist import ALLOW_LEAKS, load_split, read_datalist
from bundle.data.manifest import SCHEMA_PATH, _check_schema, _describe
from bundle.vocabulary import Organs

BREAST, LUNG = ["normal", "benign", "malignant"], ["healthy", "pneumonia", "covid-19"]
TABLE: dict[str, Any] = {
    "breast": {"structures": ["lesion"], "classes": BREAST},
    "head": {"structures": ["head"]},
    "indis": {},
    "limb": {"structures": ["nerve", "vessel"]},
    "lung": {"classes": LUNG},
}
MERGED: dict[str, Any] = {
    "breast": {"structures": ["foreground"], "classes": BREAST},
    "limb": {"structures": ["foreground"]},
}


def network(**changes: dict[str, Any] | None) -> dict[str, Organs]:
    """The network's table with other organs, or without those that are None."""
    return {"organs": Organs({name: entry for name, entry in (TABLE | changes).items() if entry is not None})}


NETWORK = network()
WITHOUT_LUNG: dict[str, Any] = {"lung": None, "chest": {"classes": LUNG, "label_set": "lung"}}
"""No organ lung, but its classes."""

MANIFEST: dict[str, Any] = {
    "version": 1,
    "root": "images",
    "datasets": {
        "B": {
            "position": "breast",
            "nature": "tumor",
            "mask_values": {"0": "background", "255": "lesion"},
            "label_set": "breast",
            "classes": ["normal", "benign", "malignant"],
        },
        "L": {"position": "lung", "nature": "", "label_set": "lung", "classes": ["healthy", "pneumonia", "covid-19"]},
        "U": {
            "position": "limb",
            "nature": "organ",
            "mask_values": {"0": "background", "1": "nerve", "2": "vessel"},
            "mask_kind": "outline",
        },
    },
    "split": {"leaks": [], "leaks_accepted": False},
    "items": [
        {"image": "b0.png", "dataset": "B", "patient": "B/0", "group": "B/0", "split": "train", "fold": 0,
         "label": ["b0_m.png", "b0_m1.png"], "class": "malignant"},
        {"image": "b1.png", "dataset": "B", "patient": "B/1", "group": "B/1", "split": "val", "fold": 1,
         "label": "b1_m.png"},
        {"image": "l0.png", "dataset": "L", "patient": "L/0", "group": "L/0", "split": "train", "fold": 1,
         "class": "pneumonia"},
        {"image": "/abs/u0.png", "dataset": "U", "patient": "U/0", "group": "U/0", "split": "train", "fold": 0,
         "label": "u0_m.png", "spacing": [0.1, 0.2], "position": "unknown"},
    ],
}  # fmt: skip

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def _write(change: Change = lambda manifest: None) -> Path:
        manifest = copy.deepcopy(MANIFEST)
        change(manifest)
        path = tmp_path / "datalist.json"
        path.write_text(json.dumps(manifest))
        return path

    return _write


def test_items_of_a_split_all_have_the_same_keys(write: Callable[..., Path], tmp_path: Path) -> None:
    breast, lung, limb = load_split(write(), split="train", **NETWORK)
    images = str((tmp_path / "images").resolve())
    assert breast == {
        "image": f"{images}/b0.png",
        "label": [f"{images}/b0_m.png", f"{images}/b0_m1.png"],
        "mask_values": {0: 0, 255: 1},
        "mask_kind": "filled",
        "mask_scaled": False,
        "mask_threshold": 0,
        "labeled": [True, True, False, False, False],
        "classes": {"breast": 2},
        "dataset": "B",
        "patient": "B/0",
        "group": "B/0",
        "position": "breast",
        "nature": "tumor",
        "spacing": pytest.approx([math.nan, math.nan], nan_ok=True),
        "item": f"{tmp_path / 'datalist.json'} item 0",
    }
    assert list(breast) == list(lung) == list(limb)
    assert (lung["label"], lung["mask_values"], lung["labeled"], lung["classes"]) == ([], {}, [False] * 5, {"lung": 1})
    assert (limb["image"], limb["spacing"], limb["position"]) == ("/abs/u0.png", [0.1, 0.2], "unknown")
    assert (limb["mask_kind"], limb["mask_values"], limb["classes"]) == ("outline", {0: 0, 1: 3, 2: 4}, {})
    assert limb["labeled"] == [True, False, False, True, True]


def test_merged_structures_are_all_index_one(write: Callable[..., Path]) -> None:
    limb = load_split(write(), split="train", merge_structures=True, **network(**MERGED, head={}))[2]
    assert (limb["mask_values"], limb["labeled"]) == ({0: 0, 1: 1, 2: 1}, [True, True])


def test_a_switch_given_as_text_is_read_as_such(write: Callable[..., Path]) -> None:
    """The command line gives text, and all text is true."""
    plain = load_split(write(), split="train", **NETWORK)
    assert str(load_split(write(), split="train", merge_structures="false", **NETWORK)) == str(plain)
    with pytest.raises(ValueError, match="merge_structures must be true or false, got 'maybe'"):
        load_split(write(), split="train", merge_structures="maybe", **NETWORK)


def test_heads_join_label_sets_by_index(write: Callable[..., Path]) -> None:
    four = {"structures": ["lesion"], "classes": ["0", "1", "2", "3"], "label_set": "four"}
    heads = {"breast": "four", "lung": None}
    breast, lung, _ = load_split(write(), split="train", heads=heads, **network(breast=four, lung={}))
    assert (breast["classes"], lung["classes"]) == ({"four": 2}, {})


@pytest.mark.parametrize("heads", [None, {"breast": "breast"}])
@pytest.mark.parametrize(
    ("classes", "given", "cls"),
    [
        (["benign", "malignant", "normal"], "normal", 0),
        (["Malignant", "BENIGN"], "Malignant", 2),
        (["be-nign", "norm al"], "be-nign", 1),
        (["cyst", "malignant"], "malignant", 2),  # no image is a cyst
    ],
)
def test_classes_join_by_name(
    write: Callable[..., Path], heads: dict[str, str] | None, classes: list[str], given: str, cls: int
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["datasets"]["B"].update(classes=classes, label_set="breast")
        manifest["items"][0]["class"] = given

    assert load_split(write(change), split="train", heads=heads, **NETWORK)[0]["classes"] == {"breast": cls}


@pytest.mark.parametrize("heads", [None, {"breast": "breast"}])
def test_classes_never_join_by_index_where_a_name_tells(
    write: Callable[..., Path], heads: dict[str, str] | None
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["datasets"]["B"]["classes"] = ["malignant", "cyst"]
        manifest["items"][1]["class"] = "cyst"

    with pytest.raises(ValueError, match=r"got \['cyst'\] of \['malignant', 'cyst'\]; set 'classes: \[nor") as caught:
        load_split(write(change), split="train", heads=heads, **NETWORK)
    assert "prepare_data.py --classes" in str(caught.value)
    assert "by index" not in str(caught.value)


def test_structures_label_sets_and_positions_join_by_name(write: Callable[..., Path]) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["datasets"]["B"].update(position="Breast", label_set="BREAST")
        manifest["datasets"]["B"]["mask_values"]["255"] = "Lesion"
        manifest["datasets"]["L"]["classes"] = ["Healthy", "COVID_19", "pneumonia"]
        manifest["items"][2]["class"] = "COVID_19"

    breast, lung, _ = load_split(write(change), split="train", **NETWORK)
    assert (breast["position"], breast["classes"], breast["mask_values"]) == ("breast", {"breast": 2}, {0: 0, 255: 1})
    assert lung["classes"] == {"lung": 2}


def test_neutral_positions_become_unknown(write: Callable[..., Path]) -> None:
    found = load_split(write(), split="train", neutral_positions=["lung"], **network(**WITHOUT_LUNG))
    assert found[1]["position"] == "unknown"


def test_a_fold_is_the_validation_split(write: Callable[..., Path]) -> None:
    names = {
        s: [Path(i["image"]).stem for i in load_split(write(), split=s, fold=1, **NETWORK)] for s in ("train", "val")
    }
    assert names == {"train": ["b0", "u0"], "val": ["b1", "l0"]}
    with pytest.raises(ValueError, match=r"expected fold to be one of the manifest's folds \[0, 1\], got 2"):
        load_split(write(), split="val", fold=2, **NETWORK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["items"][1].pop("image"), r"json: item 1: expected .*image, dataset.*, got no key 'image' among"),
        (lambda m: m.pop("split"), r"datalist\.json: expected an object with version.*, got no key 'split'"),
        (lambda m: m["items"][2].update(dataset="X"), r"item 2, key 'dataset': expected one of \['B', 'L',.*got 'X'"),
        (lambda m: m["items"][0].update({"class": "cyst"}), r"item 0, key 'class': expected .*malignant.*, got 'cyst'"),
        (lambda m: m["items"][2].update(label="m.png"), r"item 2, key 'label': .*'L' has no mask_values, got 'm.png'"),
        (lambda m: m["items"][3].update(spacing=[0.1]), r"item 3, key 'spacing': expected two pos.*, got \[0\.1\]"),
        (lambda m: m["items"][3].update(spacing=[0.1, -1]), r"item 3, key 'spacing/1': expected a positive.*, got -1"),
        (lambda m: m["items"][3].update(spacing=[math.nan, 1]), r"item 3, key 'spacing': expected .*got \[nan"),
        (lambda m: m["items"][3].update(spacing=[10**400, 1]), r"item 3, key 'spacing': expected two positive"),
        (lambda m: m["items"][3].update(points={"a": None, "b": [math.inf, 5]}), r"item 3, key 'points/b': .*\[inf"),
        (lambda m: m["items"][3].update(split="dev"), r"item 3, key 'split': expected \"train\", .*, got 'dev'"),
        (lambda m: m["items"][3].update(nature="bone"), r"item 3, key 'nature': expected \"tumor\".*, got 'bone'"),
        (lambda m: m["items"][3].update(postion="limb"), r"item 3: expected .*, got additional properties.*'postion'"),
        (lambda m: m.update(items=[]), r"key 'items': expected a list of at least one item, got \[\]"),
        (lambda m: m["items"][1].update(image="b0.png"), r"item 1, key 'image': expected each image once, got 'b0"),
        (lambda m: m["datasets"]["L"].pop("classes"), r"dataset 'L': expected .*, got no key 'classes' among"),
        (lambda m: m["datasets"]["L"].update(classes=["$x", "b"]), r"'L', key 'classes/0': .*not begin with \$"),
        (lambda m: m["datasets"]["B"]["mask_values"].update({"9": " @y"}), r"key 'mask_values/9': .*got ' @y'"),
        (lambda m: m["datasets"].update(X={"position": "", "nature": ""}), r"dataset 'X': expected mask_values, or"),
        (lambda m: m["datasets"]["B"]["mask_values"].update({"a": "b"}), r"dataset 'B', key 'mask_values'.*'a' do"),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_refused_by_file_item_and_key(
    write: Callable[..., Path], change: Change, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_datalist(write(change))


@pytest.mark.parametrize(
    "key", ["image", "dataset", "patient", "split", "fold", "label", "class", "nature", "spacing", "x"]
)
@pytest.mark.parametrize(
    "value", ["", "train", "organ", 0, 1, -1, 0.5, 1.0, -0.5, True, None, [], ["a"], [""], [0, 1], {}]
)
def test_checking_one_item_of_every_shape_finds_what_checking_all_finds(
    write: Callable[..., Path], key: str, value: Any
) -> None:
    schema = json.loads(SCHEMA_PATH.read_text())
    manifest = json.loads(write().read_text())
    manifest["items"] += [dict(item, image=f"other {i}") for i, item in enumerate(manifest["items"])]
    manifest["items"][6][key] = value
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(manifest))
    if not errors:
        _check_schema(manifest, name="m.json", extra={}, labels=True)
        return
    with pytest.raises(ValueError, match=re.escape(_describe(errors[0], "m.json"))):
        _check_schema(manifest, name="m.json", extra={}, labels=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (network(breast={"classes": BREAST}), r"json: dataset 'B', key 'mask_values'.*got 'lesion'; .* add it to"),
        (network(**WITHOUT_LUNG), r"item 2 \(dataset 'L'\), key 'position': expected .*, got 'lung'.*add "),
        (network(lung={}), r"add 'classes: \[healthy, pneumonia, covid-19\]' to its organ in organs"),
        (network(lung={"classes": ["sick", "well"]}), r"expected the network's classes \['si"),
        ({"heads": {"lung": "two"}, **network(liver={"classes": ["a", "b"], "label_set": "two"})}, r"at most 2"),
        ({"heads": {"lung": "nine"}}, r"heads must join .*, got 'lung': 'nine'"),
        ({"merge_structures": True, **network(breast={"classes": BREAST}, head={}, limb={})}, r"to merge into"),
        ({"split": "test"}, r"expected items in split 'test', got none; the manifest has \{'train': 3, 'val': 1\}"),
        ({"split": "dev"}, r"split must be one of"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_the_network_is_refused(
    write: Callable[..., Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_split(write(), **{"split": "train", **NETWORK, **options})


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["split"].update(leaks=[["b0.png", "b1.png", "near-duplicates in train and val"]]),
        lambda m: m["items"][1].update(group="B/0"),
        lambda m: m["items"][1].update(patient=m["items"][0]["patient"]),
    ],
)
def test_leaking_splits_are_refused_unless_said_in_so_many_words(write: Callable[..., Path], change: Change) -> None:
    path = write(change)
    for answer in (False, True, "yes", None):
        with pytest.raises(ValueError, match=re.escape(ALLOW_LEAKS)):
            load_split(path, split="train", allow_leaks=answer, **NETWORK)
    assert ALLOW_LEAKS == "I know that the splits leak"
    assert len(load_split(path, split="train", allow_leaks="I know that the splits leak", **NETWORK)) == 3


class Depth:
    """A task whose labels are numbers."""

    schema: Mapping[str, Any] = {"depth_mm": {"type": "number", "minimum": 0}}
    read = staticmethod(lambda item, where: item)
    passed_over = staticmethod(lambda item: set())


def test_what_tasks_add_to_an_item_is_read_and_checked(write: Callable[..., Path]) -> None:
    known = write(lambda m: m["items"][0].update(depth_mm=41.5))
    found = load_split(known, split="train", tasks=[Depth()], **NETWORK)
    assert [item["depth_mm"] for item in found] == [41.5, None, None]
    with pytest.raises(ValueError, match=r"item 0: expected .*, got additional properties.*'depth_mm'"):
        load_split(known, split="train", **NETWORK)
    with pytest.raises(ValueError, match=r"item 2, key 'depth_mm': expected .*, got -1"):
        load_split(write(lambda m: m["items"][2].update(depth_mm=-1)), split="train", tasks=[Depth()], **NETWORK)
