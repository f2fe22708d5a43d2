# SPDX-License-Identifier: Apache-2.0
"""A table of clips becomes a data set of frames, in which the clips of a patient stay together."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.data.clip_sets import read_clip_table
from bundle.data.known_sets import SetOptions
from scripts.prepare_data import main

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
TOLD = SetOptions(position={"Eyes": "eye"}, nature={"Eyes": "organ"})


def frames(path: str, count: int) -> Iterator[np.ndarray]:
    if "cut" in path:
        raise OSError(f"{path}: expected a video that OpenCV can open, got none; convert it.")
    for number in range(min(count, 3)):
        yield np.full((8, 9), 50 * number + 10, np.uint8)


def write(folder: Path, *rows: str, head: str = "file,class,patient") -> Path:
    path = folder / "Eyes.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_frames_of_a_patients_clips_are_one_patient(tmp_path: Path) -> None:
    table = write(tmp_path, "a/1.mp4,detached,p1", "2.mp4,intact,p2", "3.mp4,detached,p1", "cut.mp4,intact,p3")
    found = read_clip_table(table, tmp_path / "out", options=TOLD, frames=frames, count=2)
    assert found.datasets == {
        "Eyes": {"position": "eye", "nature": "organ", "label_set": "eye", "classes": ["detached", "intact"]}
    }
    told = [(item["patient"], item["class"], Path(item["image"]).name.split("_")[1]) for item in found.items]
    assert told == [
        ("Eyes/p1", "detached", "f00"), ("Eyes/p1", "detached", "f01"),
        ("Eyes/p2", "intact", "f00"), ("Eyes/p2", "intact", "f01"),
        ("Eyes/p1", "detached", "f00"), ("Eyes/p1", "detached", "f01"),
    ]  # fmt: skip
    assert len({item["image"] for item in found.items}) == 6
    with Image.open(found.items[1]["image"]) as picture:
        assert picture.getpixel((0, 0)) == 60
    assert [entry.reason for entry in found.left_out] == [
        f"{tmp_path / 'cut.mp4'}: expected a video that OpenCV can open, got none; convert it."
    ]
    assert found.notices == []


def test_another_table_of_the_name_replaces_no_frame(tmp_path: Path) -> None:
    def others(path: str, count: int) -> Iterator[np.ndarray]:
        yield np.full((8, 9), 99, np.uint8)
        raise OSError(f"{path}: cut")

    table, out = write(tmp_path, "1.mp4,detached,p1", "2.mp4,intact,p2"), tmp_path / "out"
    first = read_clip_table(table, out, options=TOLD, frames=frames, count=2).items
    held = {item["image"]: Path(item["image"]).read_bytes() for item in first}
    later = [(["2.mp4,intact,p2", "1.mp4,detached,p1"], frames), (["1.mp4,intact,q", "3.mp4,open,q"], others)]
    for rows, read in later:
        read_clip_table(write(tmp_path, *rows), out, options=TOLD, frames=read, count=2)
        assert {path: Path(path).read_bytes() for path in held} == held
    assert len(list(out.glob("*.png"))) == 6  # equal content keeps its name in another order


def test_two_tables_of_one_name_are_refused_before_a_frame_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        tables += ["--clips", str(write(tmp_path / folder, "1.mp4,intact,p"))]
    told = ["--position", "Eyes=eye", "--nature", "Eyes=organ"]
    assert main([*tables, *told, "--output", str(tmp_path / "data/datalist.json")]) == 2
    assert "b/Eyes.csv: a name of its own expected" in capsys.readouterr().err
    assert not (tmp_path / "data/clips").exists()


def test_columns_have_other_names_and_numbers_stand_for_classes(tmp_path: Path) -> None:
    table = write(tmp_path, "1.mp4,1", "2.mp4,0", head="Video_Path,Label")
    told = SetOptions(position=TOLD.position, nature=TOLD.nature, classes={"Eyes": ("intact", "detached")})
    found = read_clip_table(table, tmp_path / "out", options=told, frames=frames, count=1)
    assert [(item["patient"], item["class"]) for item in found.items] == [
        ("Eyes/1.mp4", "detached"), ("Eyes/2.mp4", "intact"),
    ]  # fmt: skip
    assert "each clip is taken for one" in found.notices[0]


def test_a_set_of_which_something_is_not_known_waits(tmp_path: Path) -> None:
    table = write(tmp_path, "1.mp4,intact,p")
    [entry] = read_clip_table(table, tmp_path, options=SetOptions(), frames=frames, count=1).left_out
    assert entry.whole
    assert "--position Eyes=breast --nature Eyes=tumor" in entry.reason
    told = SetOptions(position=TOLD.position, nature=TOLD.nature, classes={"Eyes": ("open", "shut")})
    [entry] = read_clip_table(table, tmp_path, options=told, frames=frames, count=1).left_out
    assert "classes open, shut expected, got 'intact'" in entry.reason
    assert [path.name for path in tmp_path.iterdir()] == ["Eyes.csv"]


def test_spellings_of_a_class_are_not_two_classes(tmp_path: Path) -> None:
    table = write(tmp_path, "1.mp4,Ill,p", "2.mp4,ill,q", "3.mp4,well,r")
    [entry] = read_clip_table(table, tmp_path, options=TOLD, frames=frames, count=1).left_out
    assert entry.whole
    assert f"{table}, line 3: classes of different names expected, got 'ill' beside 'Ill'" in entry.reason
    told = SetOptions(position=TOLD.position, nature=TOLD.nature, classes={"Eyes": ("well", "ILL")})
    found = read_clip_table(table, tmp_path / "out", options=told, frames=frames, count=1)
    assert [item["class"] for item in found.items] == ["ILL", "ILL", "well"]


@pytest.mark.parametrize(
    ("rows", "head", "reason"),
    [
        (["1.mp4,a,p"], "film,class,patient", "a column file or path or"),
        ([], "file,class,patient", "got no row"),
        (["", "1.mp4,,p"], "file,class,patient", "line 3: a file and a class expected"),
        (["1.mp4,a,p", "1.mp4,a,p"], "file,class,patient", "line 3: 1.mp4 once expected, got it twice"),
        (["1.mp4,a,p", "./1.mp4,a,p"], "file,class,patient", "line 3: 1.mp4 once expected, got it twice"),
        (["1.mp4,a,b"], "file,class,Class", "one column class expected, got class, Class"),
        (["../1.mp4,a,p"], "file,class,patient", r"line 2: a file below .* expected, got ../1.mp4"),
        (["/etc/passwd,a,p"], "file,class,patient", r"line 2: a file below .* expected, got /etc/passwd"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, rows: list[str], head: str, reason: str) -> None:
    table = write(tmp_path, *rows, head=head)
    with pytest.raises(ValueError, match=reason):
        read_clip_table(table, tmp_path / "out", options=TOLD, frames=frames, count=1)


def test_prepare_data_splits_clips_by_patient(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        writer = cv2.VideoWriter(str(tmp_path / f"{number}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
        still = rng.integers(0, 255, (8, 12, 3), np.uint8)
        for _ in range(4):
            writer.write(cv2.resize(still, (96, 64), interpolation=cv2.INTER_CUBIC))
            still = np.roll(still, 1, axis=1)
        writer.release()
        rows.append(f"{number}.avi,{'detached' if number % 4 < 2 else 'intact'},p{number // 2}")
    options = [
        "--clips",
        str(write(tmp_path, *rows)),
        "--position",
        "Eyes=eye",
        "--nature",
        "Eyes=organ",
        "--folds",
        "2",
    ]
    assert main([*options, "--clip-frames", "3", "--output", str(tmp_path / "data/datalist.json")]) == 0
    manifest = json.loads((tmp_path / "data/datalist.json").read_text())
    assert len(manifest["items"]) == 36
    splits: dict[str, set[str]] = {}
    for item in manifest["items"]:
        splits.setdefault(item["patient"], set()).add(item["split"])
        assert (tmp_path / "data" / manifest["root"] / item["image"]).is_file()
    assert all(len(of_patient) == 1 for of_patient in splits.values())
    assert set().union(*splits.values()) == {"train", "val", "test"}
