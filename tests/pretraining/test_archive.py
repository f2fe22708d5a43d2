# SPDX-License-Identifier: Apache-2.0
"""A folder that nobody sorted gives images to learn from, each once, and none that is held out."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bundle.pretraining.archive import archive_images
from bundle.pretraining.images import images_to_learn_from


def texture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((12, 16))
    return np.asarray(Image.fromarray((noise * 255).astype(np.uint8)).resize((80, 60), Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def clip(path: Path, pictures: list[np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 60))
    for picture in pictures:
        writer.write(np.repeat(picture[..., None], 3, 2))
    writer.release()
    return path


def names(items: list[dict[str, str]]) -> list[str]:
    return sorted(Path(item["image"]).name for item in items)


def test_images_of_any_depth_are_found_and_sorted_by_their_folder(tmp_path: Path) -> None:
    save(tmp_path / "in/breast/a/b/one.png", texture(1))
    save(tmp_path / "in/heart/two.jpg", texture(2))
    save(tmp_path / "in/three.tif", texture(3))
    (tmp_path / "in/readme.txt").write_text("no image")
    found = archive_images(tmp_path / "in", frames_dir=tmp_path / "frames")
    assert {(Path(i["image"]).name, i["dataset"], i["patient"]) for i in found} == {
        ("one.png", "breast", "breast/a/b/one.png"),
        ("two.jpg", "heart", "heart/two.jpg"),
        ("three.tif", "images", "three.tif"),
    }


def test_masks_and_blank_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "in/x.png", texture(1))
    save(tmp_path / "in/x_mask.png", texture(2))  # by its name
    save(tmp_path / "in/masks/y.png", texture(3))  # by its folder
    save(tmp_path / "in/z.png", ((texture(4) > 128) * 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)[:32, :32])
    save(tmp_path / "in/blank.png", np.full((50, 50), 90, np.uint8))
    with caplog.at_level("INFO"):
        assert names(archive_images(tmp_path / "in", frames_dir=tmp_path / "frames")) == ["x.png"]
    assert "4 masks or blank images" in caplog.text


def test_a_still_probe_gives_one_frame_and_a_moving_one_many(tmp_path: Path) -> None:
    clip(tmp_path / "in/still.avi", [texture(1)] * 30)
    clip(tmp_path / "in/moving.avi", [texture(n) for n in range(2, 32)])
    found = archive_images(tmp_path / "in", frames_dir=tmp_path / "frames", frames=6)
    assert sorted(item["patient"] for item in found) == ["moving.avi"] * 6 + ["still.avi"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "frames").glob("*.png")}
    assert archive_images(tmp_path / "in", frames_dir=tmp_path / "frames", frames=6) == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "frames").glob("*.png")} == written  # made once


def test_copies_are_learned_from_once(tmp_path: Path) -> None:
    first = save(tmp_path / "in/a.png", texture(1))
    shutil.copy(first, tmp_path / "in/b.png")
    save(tmp_path / "in/c.png", np.ascontiguousarray(texture(1)[:, ::-1]))  # mirrored
    assert names(archive_images(tmp_path / "in", frames_dir=tmp_path / "frames")) == ["a.png"]


def test_held_out_images_and_their_copies_are_kept_out(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    shutil.copytree(tiny_data, tmp_path / "in/sets")
    (tmp_path / "in/sets/datalist.json").unlink()
    held = [item["image"] for item in manifest["items"] if item["split"] != "train"]
    with caplog.at_level("INFO"):
        found = images_to_learn_from(
            tmp_path / "in", frames_dir=tmp_path / "frames", manifest=tiny_data / "datalist.json"
        )
    assert not {Path(path).name for path in held} & set(names(found))
    assert f"{len(held)} images of validation and test, or near-duplicates of them, are kept out" in caplog.text


def test_frames_of_an_earlier_run_are_no_images_and_are_made_again_when_some_are_gone(tmp_path: Path) -> None:
    clip(tmp_path / "in/c.avi", [texture(seed) for seed in range(4)])
    frames = tmp_path / "in/cache/frames"
    first = archive_images(tmp_path / "in", frames_dir=frames)
    assert len(first) == 4
    Path(first[1]["image"]).unlink()
    assert names(archive_images(tmp_path / "in", frames_dir=frames)) == names(first)


def test_labels_of_any_task_and_folds_are_no_matter(tiny_data: Path, tmp_path: Path) -> None:
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    manifest["root"] = str(tiny_data)
    for number, item in enumerate(manifest["items"]):
        item["brightness"] = 0.5
        if item["split"] != "test":
            item["fold"] = number % 2
    save(tmp_path / "in/a.png", texture(1))
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/datalist.json").write_text(json.dumps(manifest))
    of_fold = {item["image"] for item in manifest["items"] if item.get("fold") == 1}
    learned = images_to_learn_from(tmp_path / "sets", frames_dir=tmp_path / "frames", fold=1)
    assert names(learned) == sorted(item["image"] for item in manifest["items"] if item.get("fold") == 0)
    assert not of_fold & set(names(learned))
    for item in manifest["items"]:
        shutil.copy(tiny_data / item["image"], tmp_path / "in" / item["image"])
    archive = images_to_learn_from(
        tmp_path / "in", frames_dir=tmp_path / "frames", manifest=tmp_path / "sets/datalist.json", fold=1
    )
    assert not of_fold & set(names(archive))


def test_a_broken_file_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "in/good.png", texture(1))
    (tmp_path / "in/bad.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "in/bad.mp4").write_bytes(b"no clip")
    assert names(archive_images(tmp_path / "in", frames_dir=tmp_path / "frames")) == ["good.png"]
    assert "2 files cannot be read" in caplog.text
    assert "bad.mp4" in caplog.text


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", texture(1))
    for name in ("pipe", "pipe.png", "pipe.dcm"):
        os.mkfifo(tmp_path / "in" / name)
    assert names(archive_images(tmp_path / "in", frames_dir=tmp_path / "frames")) == ["a.png"]


def test_photographs_join_but_those_that_held_out_images_are_parts_of(tmp_path: Path, tiny_data: Path) -> None:
    manifest = json.loads((tiny_data / "datalist.json").read_text())
    manifest["root"] = str(tiny_data)
    held = next(item for item in manifest["items"] if item["split"] == "test")
    held["patient"] = "NotUltrasound/skimage_coffee"
    (tmp_path / "datalist.json").write_text(json.dumps(manifest))
    own = images_to_learn_from(tmp_path, frames_dir=tmp_path / "frames")
    joined = images_to_learn_from(tmp_path, frames_dir=tmp_path / "frames", natural=True)
    found = [item["patient"] for item in joined[len(own) :]]
    assert joined[: len(own)] == own
    assert "skimage_chelsea" in found
    assert "skimage_coffee" not in found
    assert all(Path(item["image"]).is_file() and item["dataset"] == "natural" for item in joined[len(own) :])


def test_what_is_no_file_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "in/a.png", texture(1))
    (tmp_path / "in/b.png").symlink_to(tmp_path / "none.png")
    os.mkfifo(tmp_path / "in/c.png")
    with caplog.at_level("INFO"):
        archive_images(tmp_path / "in", frames_dir=tmp_path / "frames")
    assert "2 broken links, pipes and the like" in caplog.text


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none: expected a folder with images, got none"):
        archive_images(tmp_path / "none", frames_dir=tmp_path / "frames")
    (tmp_path / "in").mkdir()
    save(tmp_path / "in/blank.png", np.full((50, 50), 90, np.uint8))
    with pytest.raises(FileNotFoundError, match=r"expected images to learn from, got none \(1 masks or blank images\)"):
        archive_images(tmp_path / "in", frames_dir=tmp_path / "frames")


def test_two_lists_are_one_too_many(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder without a manifest beside --manifest"):
        images_to_learn_from(tiny_data, frames_dir=tmp_path, manifest=tmp_path / "datalist.json")
