# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.data.strangers import DATASET, make_strangers, sources


def test_pictures_of_installed_packages_are_found() -> None:
    assert {"skimage_chelsea", "skimage_coffee", "sklearn_china", "pydicom_CT_small"} <= set(sources())


def test_images_of_no_organ(tmp_path: Path) -> None:
    made = make_strangers(tmp_path / "no_organ", count=60, seed=3)
    assert made.datasets[DATASET]["organ"] == "none"
    assert made.datasets[DATASET]["position"] == "unknown"
    files = [Path(item["image"]) for item in made.items]
    assert len(files) == len(set(files)) == 60
    assert len({item["patient"] for item in made.items}) >= 20
    gray = 0
    for file in files:
        pixels = np.asarray(Image.open(file))
        assert pixels.dtype == np.uint8
        assert min(pixels.shape[:2]) >= 160
        gray += pixels.ndim == 2
    assert 20 < gray < 60
    # each source is one patient: parts of one photograph never lie in two splits
    assert {item["patient"] for item in made.items} == {
        f"{DATASET}/{file.stem.split('_', 1)[1].rpartition('_')[0]}" for file in files
    }


def test_the_same_seed_gives_the_same_images_and_a_repeated_run_replaces_them(tmp_path: Path) -> None:
    first = [Path(i["image"]).read_bytes() for i in make_strangers(tmp_path / "a", count=12, seed=1).items]
    again = [Path(i["image"]).read_bytes() for i in make_strangers(tmp_path / "a", count=12, seed=1).items]
    other = [Path(i["image"]).read_bytes() for i in make_strangers(tmp_path / "b", count=12, seed=2).items]
    assert first == again
    assert first != other


def test_another_seed_replaces_no_image_of_an_earlier_manifest(tmp_path: Path) -> None:
    first = {i["image"]: Path(i["image"]).read_bytes() for i in make_strangers(tmp_path, count=12, seed=1).items}
    make_strangers(tmp_path, count=12, seed=2)
    assert {path: Path(path).read_bytes() for path in first} == first


def test_a_file_of_others_is_not_replaced(tmp_path: Path) -> None:
    name = Path(make_strangers(tmp_path / "a", count=1, seed=1).items[0]["image"]).name
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=name):
        make_strangers(tmp_path / "b", count=1, seed=1)
