# SPDX-License-Identifier: Apache-2.0
"""What the command writes, prints and refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bundle.data import neighbors
from bundle.data.assemble import assemble
from bundle.data.datalist import ALLOW_LEAKS, load_split, read_datalist
from bundle.data.public_sets import SetOptions, read_folders
from bundle.vocabulary import Organs
from tests.prepare_data.command import SCRIPT, picture, prepare

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def test_overwrite_replaces_a_manifest_and_no_other_file(folders: Path, tmp_path: Path) -> None:
    inputs = folders / "segmentation/USGRA"
    for path in (inputs / "train.txt", inputs / "imgs/u0.png", inputs / "config.yaml"):
        before = path.read_bytes()
        done = prepare("--folders", folders, "--output", path, "--overwrite")
        assert done.returncode == 2
        assert (
            f"{path}: expected a new file or, with --overwrite, a manifest to replace, got another file" in done.stderr
        )
        assert path.read_bytes() == before
    output = tmp_path / "datalist.json"
    output.write_text('{"datasets": {}, "items": [], "note": "by an earlier version, or changed by hand"}')
    kept = tmp_path / "kept.json"
    kept.hardlink_to(output)
    assert prepare("--folders", folders, "--output", output).returncode == 2
    for _ in range(2):
        done = prepare("--folders", folders, "--output", output, "--overwrite")
        assert done.returncode == 0, done.stderr
    assert len(read_datalist(output)["items"]) == 10
    assert "changed by hand" in kept.read_text()


def test_a_mixture_becomes_one_manifest(folders: Path, tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"busi/benign/benign ({i}).png", seed=20 + i)
        Image.new("L", (80, 60)).save(tmp_path / f"busi/benign/benign ({i})_mask.png")
    output = tmp_path / "out/datalist.json"
    done = prepare("--folders", folders, "--busi", tmp_path / "busi", "--output", output, "--folds", 2)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    total = next(line for line in done.stdout.splitlines() if line.startswith("total"))
    assert total.split()[1:9] == ["14", "0", "14", "4", "14", "13", "2", "1"]
    manifest = read_datalist(output)
    assert manifest["root"] == ".."
    groups = {Path(item["image"]).stem: (item["group"], item["split"]) for item in manifest["items"]}
    assert groups["u0"] == groups["u9"]
    again = prepare(
        *("--busi", tmp_path / "busi", "--folders", folders, "--output", output, "--folds", 2, "--overwrite"),
        *("--workers", 2),
    )
    assert again.returncode == 0
    assert read_datalist(output) == manifest
    breast = {"structures": ["lesion"], "classes": ["normal", "benign", "malignant"]}
    organs = Organs({"indis": {}, "breast": breast, "limb": {"structures": ["nerve", "vessel"]}})
    items = load_split(output, split="train", organs=organs)
    assert all(Path(path).is_file() for item in items for path in (item["image"], *item["label"]))


def test_given_splits_that_leak_are_listed_and_not_written(folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "datalist.json"
    refused = prepare("--folders", folders, "--output", output, "--given-splits")
    assert refused.returncode == 1
    assert "leak: imgs/u0.png | imgs/u9.png | near-duplicates in train and test" in refused.stderr
    assert "nothing is written" in refused.stderr
    assert "--accept-leaks" in refused.stderr
    assert not output.exists()
    accepted = prepare("--folders", folders, "--output", output, "--given-splits", "--accept-leaks")
    assert accepted.returncode == 0
    manifest = json.loads(output.read_text())
    assert manifest["split"]["leaks"] == [["imgs/u0.png", "imgs/u9.png", "near-duplicates in train and test"]]
    assert manifest["split"]["leaks_accepted"] is True
    organs = Organs({"limb": {"structures": ["nerve", "vessel"]}, "indis": {}})
    with pytest.raises(ValueError, match=ALLOW_LEAKS):
        load_split(output, split="train", organs=organs)
    assert len(load_split(output, split="train", allow_leaks=ALLOW_LEAKS, organs=organs)) == 7


def test_odd_names_break_neither_table_nor_manifest(folders: Path, tmp_path: Path) -> None:
    names = ["=1+1.png", 'a,"b"\nc.png', os.fsdecode(b"\xff.png")]
    folder = folders / "segmentation" / "B\n1"
    (folder / "masks").mkdir(parents=True)
    for seed, name in enumerate(names):
        picture(folder / "images" / name, seed=80 + seed)
        Image.new("L", (80, 60), 255).save(folder / "masks" / name)
    (folder / os.fsdecode(b"\xfe.mp4")).touch()
    output = tmp_path / "datalist.json"
    told = [f"{flag}=B\n1={value}" for flag, value in (("--position", "breast"), ("--nature", "tumor"))]
    arguments = ["--folders", str(folders), "--output", str(output), *told, "--structure=B\n1=255:lesion"]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert r"\udcfe.mp4: expected an image" in done.stderr
    assert done.stdout.splitlines()[1].split()[:4] == [r"B\n1", "3", "1", "3"]
    items = [item for item in read_datalist(output)["items"] if item["dataset"] == "B\n1"]
    assert sorted(Path(item["image"]).name for item in items) == sorted(names)
    table = {"limb": {"structures": ["nerve", "vessel"]}, "breast": {"structures": ["lesion"]}, "indis": {}}
    found = load_split(output, split="train", organs=Organs(table))
    assert all(Path(item["image"]).is_file() for item in found)


def test_a_set_given_twice_is_refused(folders: Path, tmp_path: Path) -> None:
    inner = folders / "segmentation/USGRA"
    done = prepare("--folders", folders, "--folders", inner, "--output", tmp_path / "datalist.json")
    assert done.returncode == 2
    assert "imgs/u0.png: expected each image once, got it in the data set 'USGRA'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected data, got none"),
        (["--busi", "nowhere"], "nowhere: expected the folder of BUSI"),
        (["--folders", "ROOT", "--position", "MYSET=liver"], "about the data sets ['USGRA'], got ['MYSET']"),
        (["--folders", "ROOT", "--position", "liver"], "--position: expected SET=VALUE, got 'liver'"),
        (["--folders", "ROOT", "--structure", "USGRA=nerve"], "--structure: expected SET=VALUE:NAME"),
        (["--folders", "ROOT", "--mask-threshold", "USGRA=x"], "--mask-threshold: expected SET=VALUE with a whole"),
        (["--folders", "ROOT", "--mask-threshold", "USGRA=9"], "--mask-threshold USGRA=9: expected one structure"),
        (["--folders", "ROOT", "--fractions", "0.5", "0.5", "0.5"], "--fractions: expected three shares"),
        (["--folders", "ROOT", "--folds", "40"], "expected at least 40 groups of patients"),
    ],
)  # fmt: skip
def test_errors_are_text(folders: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    real = [str(folders) if argument == "ROOT" else argument for argument in arguments]
    done = prepare(*real, "--output", tmp_path / "datalist.json")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_runs_by_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(tmp_path / "datalist.json")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[-1][:26]) == (2, "error: expected data, got ")


def test_an_existing_manifest_is_not_replaced_by_accident(folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "datalist.json"
    output.write_text("mine")
    done = prepare("--folders", folders, "--output", output)
    assert done.returncode == 2
    assert "add --overwrite to replace it" in done.stderr
    assert output.read_text() == "mine"


def test_the_split_is_printed_by_set_and_part(folders: Path, tmp_path: Path) -> None:
    done = prepare("--folders", folders, "--output", tmp_path / "datalist.json")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    start = lines.index("data set part patients images in groups of several by class")
    assert lines[start + 1] == "USGRA train 7 (70.0%) 7 (70.0%) 2 (100.0%) -", done.stdout
    assert [line.split()[0] for line in lines[start + 2 : start + 4]] == ["val", "test"]


def test_an_approximate_search_is_noted(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [read_folders(folders, options=SetOptions())]
    assert "approximate" not in " ".join(assemble(found, folder=tmp_path, fractions=FRACTIONS, seed=0).notices)
    monkeypatch.setattr(neighbors, "EXACT", 9)
    notices = assemble(found, folder=tmp_path, fractions=FRACTIONS, seed=0).notices
    assert notices[0] == (
        "the search for near-duplicates is approximate for 10 images and may miss some pairs: up to 9 images all pairs "
        "are compared, of more only those that share part of the hash"
    )


def test_near_duplicates_of_busi_stay_together(real_data: Path, tmp_path: Path) -> None:
    """One class of BUSI: known near-duplicates are joined, and no giant group comes of it."""
    (tmp_path / "busi").mkdir()
    (tmp_path / "busi/normal").symlink_to(real_data / "Dataset_BUSI_with_GT/normal")
    done = prepare("--busi", tmp_path / "busi", "--output", tmp_path / "datalist.json")
    assert done.returncode == 0, done.stderr
    manifest = read_datalist(tmp_path / "datalist.json")
    groups = [item["group"] for item in manifest["items"]]
    assert manifest["split"]["near_duplicates"] >= 10
    assert max(map(groups.count, groups)) <= 6


def test_an_image_of_an_organ_among_those_of_none_is_told(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(folders / "segmentation/USGRA/imgs/u3.png", tmp_path / "other/copy.png")
    done = prepare(
        "--folders", folders, "--other-organs", tmp_path / "other", "--output", tmp_path / "out/datalist.json"
    )
    assert done.returncode == 0
    assert "note: 1 images of no organ are near-duplicates of images of one, the first" in done.stdout
    assert "copy.png (OtherUltrasound) of" in done.stdout
    assert "different classes" not in done.stdout
