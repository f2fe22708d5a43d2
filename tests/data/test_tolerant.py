# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd
from PIL import Image

from bundle.data.tolerant import FolderDataset
from bundle.transforms import Letterboxd, LoadUltrasoundd
from bundle.vocabulary import Organs


def make(folder: Path, **options: Any) -> FolderDataset:
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:50])
    transform = Compose([LoadUltrasoundd("image"), Letterboxd("image", 16)])
    return FolderDataset(
        [{"image": str(folder / name)} for name in ("bad.png", "good.png")],
        transform,
        dataset_dir=str(folder),
        output_dir=str(folder / "out"),
        organs=Organs({"indis": {}}),
        image_size=16,
        **options,
    )


def test_a_bad_file_comes_black_with_its_reason(tmp_path: Path) -> None:
    bad, good = make(tmp_path)
    assert bad.keys() == good.keys()
    assert good["error"] == ""
    assert bad["error"].startswith(f"{tmp_path / 'bad.png'}: ")
    assert bad["image"].shape == good["image"].shape == (3, 16, 16)
    assert bad["image"].abs().sum() == 0
    assert bad["image"].meta["filename_or_obj"] == str(tmp_path / "bad.png")


def test_bad_and_good_collate_and_invert_together(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    batch["pred"] = MetaTensor(torch.ones(2, 4, 16, 16))
    invert = Invertd("pred", transform=dataset.transform, orig_keys="image", nearest_interp=False)
    bad, good = (invert(item) for item in decollate_batch(batch))
    assert good["pred"].shape == (4, 20, 30)
    assert bad["pred"].shape == (4, 16, 16)


def test_items_know_their_place(tmp_path: Path) -> None:
    assert [item["place"] for item in make(tmp_path)] == [0, 1]


@pytest.mark.parametrize("name", ["position", "nature", "task"])
def test_an_empty_prompt_is_none_that_was_meant(tmp_path: Path, name: str) -> None:
    """As a shell gives for a variable that is not set."""
    with pytest.raises(ValueError, match=f"{name} must be a value of its table, got an empty text; leave --{name} out"):
        make(tmp_path, **{name: ""})
