# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from scripts.benchmark import as_markdown
from scripts.benchmarks import clips
from scripts.benchmarks.folder import link_images
from scripts.benchmarks.interleave import Options


def test_a_folder_of_links_has_as_many_images_as_asked_for(tmp_path: Path) -> None:
    sources = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for source in sources:
        source.write_bytes(source.name.encode())
    links = sorted(link_images(sources, tmp_path / "links", count=5).iterdir())
    assert [link.name for link in links] == ["00000.png", "00001.jpg", "00002.png", "00003.jpg", "00004.png"]
    assert links[4].read_bytes() == b"a.png"


def test_without_clips_the_part_says_what_to_do(tmp_path: Path) -> None:
    part = clips.measure(Options(quick=True, datalist=Path(), ultrasound=None, weights=Path()))
    assert part.rows == []
    assert "--ultrasound" in as_markdown(part)


def test_a_clip_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    clip = tmp_path / "cut.mp4"
    clip.touch()
    with pytest.raises(RuntimeError, match=r"cut\.mp4: a report expected, got status 1"):
        clips.live(clip, [])
