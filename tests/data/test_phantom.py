# SPDX-License-Identifier: Apache-2.0
import hashlib
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.data.datalist import load_split
from bundle.data.manifest import read_datalist
from bundle.data.phantom import datalist_path, is_phantom, synthesize
from bundle.data.phantom.store import _plan
from bundle.files import LEDGER
from bundle.vocabulary import Organs

SEED, PATIENTS = 3, 15


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("phantom") / "set", seed=SEED, patients=PATIENTS).parent


@pytest.fixture(scope="module")
def manifest(phantom):
    return read_datalist(phantom / "datalist.json")


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def arrays(phantom: Path, item: dict) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(Image.open(phantom / item["image"])), np.asarray(Image.open(phantom / item["label"]))


def test_two_processes_at_once_give_one_complete_folder_with_the_same_bytes(phantom, tmp_path):
    root = tmp_path / "data" / "set"
    code = (
        "import sys; from bundle.data.phantom import datalist_path as d; "
        "print('ready', flush=True); sys.stdin.readline(); "
        f"print(d(sys.argv[1], phantom_dir=sys.argv[1], seed={SEED}, patients={PATIENTS}))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen([sys.executable, "-c", code, str(root)], text=True, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2  # imports take longer than the work
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert out.strip() == str(root / "datalist.json")
        assert "Synthesizing the phantom" in err
    assert digest(root) == digest(phantom)
    assert [p.name for p in root.parent.iterdir()] == ["set"]


def test_each_split_has_each_class_and_organ_and_no_patient_is_in_two(manifest):
    parts, classes, organs = defaultdict(set), defaultdict(set), defaultdict(set)
    for item in manifest["items"]:
        assert item["group"] == item["patient"]
        parts[item["patient"]].add(item["split"])
        organs[item["split"]].add(item["dataset"])
        classes[item["split"]].add(item.get("class"))
    assert len(parts) == PATIENTS
    assert all(len(splits) == 1 for splits in parts.values())
    for split in ("train", "val", "test"):
        assert organs[split] == {"PhantomBreast", "PhantomHead", "PhantomLimb"}
        assert classes[split] >= {"normal", "benign", "malignant"}
    assert all(
        item["spacing"][0] == item["spacing"][1] and 0.1 < item["spacing"][0] < 0.4 for item in manifest["items"]
    )


def test_masks_fit_images_and_label_tables(phantom, manifest):
    seen = defaultdict(set)
    for item in manifest["items"]:
        image, mask = arrays(phantom, item)
        assert image.shape == mask.shape
        assert image.dtype == mask.dtype == np.uint8
        assert abs(image.shape[0] - image.shape[1]) >= 16
        assert 200 <= min(image.shape) <= max(image.shape) <= 320
        seen[item["dataset"]] |= set(np.unique(mask).tolist())
        if "class" in item:
            assert mask.any() == (item["class"] != "normal")
    assert seen == {"PhantomBreast": {0, 255}, "PhantomHead": {0, 255}, "PhantomLimb": {0, 1, 2}}
    for name, values in seen.items():
        assert {str(v) for v in values} == set(manifest["datasets"][name]["mask_values"])


def test_limbs_without_a_nerve_or_a_vessel_occur():
    variants = [(kind.name, variant) for kind, _, variant, _ in _plan(60)]
    assert len(variants) == 60
    assert {v for name, v in variants if name == "PhantomLimb"} == {"both", "no nerve", "no vessel"}


def test_views_of_a_patient_differ(phantom, manifest):
    assert len(set(digest(phantom / "images").values())) == len(manifest["items"])


def test_no_grey_level_threshold_segments_it(phantom, manifest):
    scores = defaultdict(lambda: defaultdict(list))
    for item in manifest["items"]:
        image, mask = arrays(phantom, item)
        for value in set(np.unique(mask).tolist()) - {0}:
            for low in range(0, 256, 16):
                for high in range(low + 16, 257, 16):
                    chosen, truth = (image >= max(low, 1)) & (image < high), mask == value
                    dice = 2 * (chosen & truth).sum() / max(1, chosen.sum() + truth.sum())
                    scores[item["dataset"], value][low, high].append(dice)
    best = {key: max(np.mean(dice) for dice in windows.values()) for key, windows in scores.items()}
    assert len(best) == 4
    assert max(best.values()) < 0.6


def test_mean_grey_level_does_not_tell_the_classes(phantom, manifest):
    means = defaultdict(list)
    for item in manifest["items"]:
        if "class" in item:
            means[item["class"]].append(arrays(phantom, item)[0].mean())
    ranges = [(min(m), max(m)) for m in means.values()]
    assert max(low for low, _ in ranges) < min(high for _, high in ranges)


def test_a_phantom_is_kept_when_it_fits_and_made_again_when_not(phantom, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(phantom, root)
    ask = {"phantom_dir": str(root), "seed": SEED, "patients": PATIENTS}
    inode = (root / "datalist.json").stat().st_ino
    assert datalist_path(str(root), **ask) == str(root / "datalist.json")
    assert (root / "datalist.json").stat().st_ino == inode
    assert datalist_path(str(root), **{**ask, "seed": SEED + 1}) == str(root / "datalist.json")
    assert read_datalist(root / "datalist.json")["split"]["seed"] == SEED + 1
    assert not set(digest(phantom / "images").values()) & set(digest(root / "images").values())
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "of an earlier version"])
def test_a_phantom_with_files_of_the_user_is_not_replaced(phantom, tmp_path, listed):
    root = tmp_path / "set"
    shutil.copytree(phantom, root)
    if not listed:
        (root / LEDGER).unlink()
    ask = {"phantom_dir": str(root), "seed": SEED + 1, "patients": PATIENTS}
    (root / "images/labels").mkdir()
    (root / "images/labels/mine.png").write_bytes(b"an hour of drawing")
    with pytest.raises(FileExistsError, match=r"images/labels/mine\.png: expected .* choose another folder"):
        datalist_path(str(root), **ask)
    assert read_datalist(root / "datalist.json")["split"]["seed"] == SEED
    shutil.rmtree(root / "images/labels")
    datalist_path(str(root), **ask)
    assert read_datalist(root / "datalist.json")["split"]["seed"] == SEED + 1


def test_a_manifest_elsewhere_is_returned_as_it_is(tmp_path):
    for name in ("datalist.json", "mine.json"):
        (tmp_path / name).write_text("{}")
    ask = {"phantom_dir": str(tmp_path / "phantom"), "seed": 0, "patients": PATIENTS}
    assert datalist_path(str(tmp_path), **ask) == str(tmp_path / "datalist.json")
    assert datalist_path(str(tmp_path / "mine.json"), **ask) == str(tmp_path / "mine.json")
    assert not (tmp_path / "phantom").exists()


def test_messages(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"expected a folder with datalist\.json.*scripts/prepare_data\.py"):
        datalist_path(str(tmp_path), phantom_dir=str(tmp_path / "phantom"), seed=0, patients=PATIENTS)
    with pytest.raises(FileExistsError, match=r"expected no folder, an empty one or a phantom.*got other files"):
        datalist_path(str(tmp_path), phantom_dir=str(tmp_path), seed=0, patients=PATIENTS)
    with pytest.raises(ValueError, match=r"patients must be at least 15.*got 14"):
        synthesize(tmp_path / "few", seed=0, patients=14)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_its_items_are_told_from_those_of_other_sets_and_from_saved_labels(phantom):
    items = load_split(
        phantom / "datalist.json",
        split="train",
        organs=Organs(
            {
                "breast": {"structures": ["lesion"], "classes": ["normal", "benign", "malignant"]},
                "head": {"structures": ["head"]},
                "limb": {"structures": ["nerve", "vessel"]},
                "indis": {},
            }
        ),
    )
    assert is_phantom(items)
    assert not is_phantom([*items, {**items[0], "dataset": "BUSI"}])
    assert not is_phantom([{"image": "a.png", "label": "a_mask.png"}])
