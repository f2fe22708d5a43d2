# SPDX-License-Identifier: Apache-2.0
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from bundle.data.requests import add_prompts, name_items
from bundle.files import OutputFolder
from bundle.tables import csv_table

POSITIONS = ["breast", "head", "indis"]
DEFAULTS = {"position": "head", "nature": "unknown", "task": "unknown"}


def named(tmp_path: Path, *files: str) -> list[dict[str, str]]:
    data = [{"image": str(tmp_path / file)} for file in files]
    return name_items(data, dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))


def test_results_take_the_suffix_only_where_names_collide(tmp_path: Path) -> None:
    items = named(tmp_path, "a.png", "a.jpg", "b.png", "sub/a.png", "c.nii.gz", "1.2.840.dcm")
    assert [item["file"] for item in items] == ["a.png", "a.jpg", "b.png", "sub/a.png", "c.nii.gz", "1.2.840.dcm"]
    assert [item["output"] for item in items] == ["a.png", "a.jpg", "b", "sub/a", "c", "1.2.840"]


def test_masks_and_earlier_results_are_left_out(tmp_path: Path) -> None:
    files = ["a.png", "a_mask.png", "a_mask_1.png", "a_restored.png", "lone_mask.png", "out/a_overlay.png"]
    assert [item["file"] for item in named(tmp_path, *files)] == ["a.png", "lone_mask.png"]


def test_results_of_clips_and_dicom_images_are_left_out(tmp_path: Path) -> None:
    files = ["c.mp4", "c_frame00010_mask.png", "d_frame00010_mask.png", "a.dcm", "a_sc.dcm", "c_frame00010_sc.dcm"]
    assert [item["file"] for item in named(tmp_path, *files)] == ["c.mp4", "d_frame00010_mask.png", "a.dcm"]
    assert len(named(tmp_path, "a.png", "a_sc.png")) == 2  # no kind of result


def test_results_are_left_out_by_whatever_links_they_are_reached(tmp_path: Path) -> None:
    (tmp_path / "real/images/out").mkdir(parents=True)
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    (tmp_path / "real/images/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    top = tmp_path / "alias/images"
    data = [{"image": str(top / name)} for name in ("a.png", "out/b_overlay.png", "link/c_overlay.png")]
    for results, files in (
        ("real/images/out", ["a.png", "link/c_overlay.png"]),
        ("elsewhere", ["a.png", "out/b_overlay.png"]),
    ):
        items = name_items(data, dataset_dir=str(top), output_dir=str(tmp_path / results))
        assert [item["file"] for item in items] == files


def test_names_that_look_like_a_result_of_another_stay_apart(tmp_path: Path) -> None:
    items = named(tmp_path, "a.png", "a.jpg", "a.png.png", "1.2.3", "1.2.4", "1.2.3.1")
    assert [item["output"] for item in items] == ["a.png", "a.jpg", "a.png.png", "1.2.3", "1.2.4", "1.2.3.1"]


def frames_of(tmp_path: Path, *files: str, numbers: tuple[int, ...] = (0, 1)) -> list[dict[str, Any]]:
    """Items as ``list_frames`` makes them: video files have frames."""
    return [
        {"image": str(tmp_path / file), **told}
        for file in files
        for told in ([{"frame": number} for number in numbers] if file.endswith((".mp4", ".avi")) else [{}])
    ]


@pytest.mark.parametrize(
    ("files", "outputs"),
    [
        (["c.mp4", "d.png"], ["c_frame00000", "c_frame00001", "d"]),
        (["c.mp4", "c_frame00001.png"], ["c.mp4_frame00000", "c.mp4_frame00001", "c_frame00001.png"]),
        (["c.mp4", "c_frame00001.png", "c_frame00007.png"], [
            "c.mp4_frame00000", "c.mp4_frame00001", "c_frame00001.png", "c_frame00007",
        ]),
        (["c.mp4", "c.avi"], ["c.mp4_frame00000", "c.mp4_frame00001", "c.avi_frame00000", "c.avi_frame00001"]),
        (["c.mp4", "c_frame00001.png", "c.mp4_frame00001.png"], [
            "c.mp4_frame00000", "c.mp4_frame00001", "c_frame00001.png", "c.mp4_frame00001.png",
        ]),
    ],
)  # fmt: skip
def test_a_frame_and_an_image_of_its_name_stay_apart(tmp_path: Path, files: list[str], outputs: list[str]) -> None:
    data = frames_of(tmp_path, *files)
    items = name_items(data, dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    assert [item["output"] for item in items] == outputs


def test_names_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    data = frames_of(tmp_path, "c.mp4", "c_frame00001.png", "c.mp4_frame00001", "c.png")
    with pytest.raises(ValueError, match=r"c\.mp4 and c\.mp4_frame00001: results of different names expected, got .*"):
        name_items(data, dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))


@pytest.mark.parametrize("results", ["in", "alias"])
def test_what_an_earlier_run_wrote_of_clips_is_left_out(tmp_path: Path, results: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    (tmp_path / "in/still.png").write_bytes(b"")
    (tmp_path / "in/other_mask.png").write_bytes(b"a stranger's")
    earlier = OutputFolder(tmp_path / results)
    names = ["c_frame00000_mask.png", "c_frame00001_overlay.png", "c.mp4_frame00001_sc.dcm", "gone_mask.png"]
    for name in names:
        earlier.write(name, name.encode())
    files = ["still.png", "other_mask.png", *names]
    for top in ("in", "alias"):
        for clips in ((), ("c.mp4",)):  # frames: 0 leaves the clip out
            data = frames_of(tmp_path / top, *clips, *files)
            items = name_items(data, dataset_dir=str(tmp_path / top), output_dir=str(tmp_path / results))
            assert list(dict.fromkeys(item["file"] for item in items)) == [*clips, "still.png", "other_mask.png"]


@pytest.mark.parametrize("results", [".", "..", "../elsewhere"])
def test_images_beside_their_results_are_predicted(tmp_path: Path, results: str) -> None:
    names = ["a.png", "a_mask.png", "a_overlay.png", "b.png", "b.jpg", "b.png_mask.png", "b.png_overlay.png"]
    data = [{"image": str(tmp_path / name)} for name in names]
    items = name_items(data, dataset_dir=str(tmp_path), output_dir=str((tmp_path / results).resolve()))
    assert [item["file"] for item in items] == ["a.png", "b.png", "b.jpg"]


def test_a_folder_of_results_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected images, got 1 masks of others or earlier results"):
        named(tmp_path, "out/a_mask.png")


def test_an_empty_name_is_no_folder_for_results(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output_dir must name a folder, got an empty name"):
        name_items([{"image": str(tmp_path / "a.png")}], dataset_dir=str(tmp_path), output_dir="")


def test_files_from_elsewhere_go_by_their_name(tmp_path: Path) -> None:
    items = name_items([{"image": "/elsewhere/x.png"}], dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    assert (items[0]["file"], items[0]["output"]) == ("x.png", "x")


def test_prompts_of_the_file_go_before_the_defaults(tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("file,position,nature\nsub/a.png,breast,tumor\nb.png,,organ\n")
    items = add_prompts(
        named(tmp_path, "sub/a.png", "b.png", "c.png"), positions=POSITIONS, defaults=DEFAULTS, prompts=str(table)
    )
    found = [(item["position"], item["nature"], item["task"]) for item in items]
    assert found == [("breast", "tumor", "unknown"), ("head", "organ", "unknown"), ("head", "unknown", "unknown")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,position\na.png,head\n", r"prompts\.csv: columns must be file and some of \['position', 'nature'"),
        ("file,organ\na.png,head\n", r"prompts\.csv: columns must be .*got \['file', 'organ'\]"),
        ("", r"prompts\.csv: columns must be"),
        ("file,position,position\na.png,head,breast\n", r"columns must be .*, each once, .*'position', 'position'\]"),
        ("file,position\n", r"with a line for each file below them, got \['file', 'position'\] and 0 lines"),
        ("file,position\na.png,head,x\n", r"prompts\.csv, line 2: 2 cells expected, as in the first line, got 3"),
        ("file,position,nature\na.png,head\n", r"prompts\.csv, line 2: 3 cells expected, as in the first line, got 2"),
        ("file,position\nother.png,head\n", r"prompts\.csv: files must be images below dataset_dir, got \['other"),
        ("file,position\na.png,head\na.png,breast\n", r"prompts\.csv: each file must have one row, got several"),
        ("file,position\na.png,elbow\n", r"prompts of a\.png: position must be one of \['breast', .*got 'elbow'"),
        (None, r"prompts must be a readable CSV file, got .*prompts\.csv"),
    ],
)  # fmt: skip
def test_bad_prompt_tables_are_named(tmp_path: Path, content: str | None, message: str) -> None:
    table = tmp_path / "prompts.csv"
    if content is not None:
        table.write_text(content)
    with pytest.raises(ValueError, match=message):
        add_prompts(named(tmp_path, "a.png"), positions=POSITIONS, defaults=DEFAULTS, prompts=str(table))


def test_unknown_default_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts of the command line: position must be one of \['breast', 'head'"):
        add_prompts(
            named(tmp_path, "a.png"), positions=POSITIONS, defaults={**DEFAULTS, "position": "brest"}, prompts=None
        )


def test_prompts_find_the_files_that_a_table_of_results_names(tmp_path: Path) -> None:
    names = ["=1+1.png", "'=2.png", "-a.png", 'a,"b"\nc.png', os.fsdecode(b"\xff.png"), "plain.png"]
    table = tmp_path / "prompts.csv"
    table.write_bytes(csv_table([{"file": name, "position": "breast"} for name in names]))
    found = add_prompts(named(tmp_path, *names), positions=POSITIONS, defaults=DEFAULTS, prompts=str(table))
    assert [item["position"] for item in found] == ["breast"] * 6
    table.write_text("file,position\n'=2.png,breast\n=1+1.png,breast\n")  # as the files are called
    found = add_prompts(named(tmp_path, *names[:2]), positions=POSITIONS, defaults=DEFAULTS, prompts=str(table))
    assert [item["position"] for item in found] == ["breast"] * 2


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text('file,position\n"' + "x" * 140_000)
    with pytest.raises(ValueError, match=r"prompts must be a readable CSV file, got .*: field larger than field limit"):
        add_prompts(named(tmp_path, "a.png"), positions=POSITIONS, defaults=DEFAULTS, prompts=str(table))


def test_masks_of_others_and_earlier_results_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks = [f"a_mask_{n}.png" for n in range(7)]
    with caplog.at_level(logging.INFO):
        named(tmp_path, "a.png", *masks)
    assert caplog.messages == [
        "7 of 8 files are masks of others or earlier results and are left out: a_mask_0.png, a_mask_1.png, "
        "a_mask_2.png, a_mask_3.png, a_mask_4.png and 2 more."
    ]
