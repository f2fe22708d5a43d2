# SPDX-License-Identifier: Apache-2.0
import functools
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, Lambdad, MapTransform, RandScaleIntensityd
from PIL import Image
from torch.utils.data import DataLoader

from bundle.data.cache import CachedDataset
from bundle.data.sampling import Draw
from bundle.transforms import LoadMaskd, LoadUltrasoundd, ShrinkSampled
from tests.transforms.made_files import in_two_parts

ROOT = Path(__file__).resolve().parents[2]


def make_items(folder: Path, count: int = 3, side: int = 40) -> list[dict[str, Any]]:
    items = []
    for index in range(count):
        rng = np.random.default_rng(index)
        image, mask = folder / f"{index}.png", folder / f"{index}_mask.png"
        Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(image)
        Image.fromarray((rng.random((side, side)) > 0.5).astype(np.uint8)).save(mask)
        items.append(
            {"image": str(image), "label": [str(mask)], "patient": f"patient {index}", "item": f"item {index}"}
        )
    return items


def transforms(longest: int = 32, num_structures: int = 2) -> Compose:
    return Compose(
        [
            LoadUltrasoundd(),
            LoadMaskd(num_structures=num_structures),
            ShrinkSampled(longest),
            RandScaleIntensityd("image", 0.5, prob=1.0),
        ]
    )


def dataset(items: list[dict[str, Any]], folder: Path | None, **options: Any) -> CachedDataset:
    settings = {"disk_gb": 1.0, "memory_gb": 0.0, "transform": transforms(), **options}
    return CachedDataset(items, cache_dir=folder and str(folder), **settings)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"))


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, Any]]:
    return make_items(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_a_kept_sample_equals_a_new_one_to_the_bit(items: list[dict[str, Any]], folder: Path, memory_gb: float) -> None:
    without = dataset(items, None)
    for _ in range(2):
        data = dataset(items, folder, memory_gb=memory_gb)
        for place in (0, 1, 2, 0):
            kept, made = data[Draw(place, 7)], without[Draw(place, 7)]
            assert torch.equal(kept["image"], made["image"])
            assert torch.equal(kept["label"], made["label"])
    assert len(entries(folder)) == 3


def test_same_draw_gives_the_same_sample(items: list[dict[str, Any]]) -> None:
    data = dataset([items[0], {**items[0], "item": "again"}], None)
    assert torch.equal(data[Draw(0, 7)]["image"], data[Draw(1, 7)]["image"])
    assert not torch.equal(data[Draw(0, 7)]["image"], data[Draw(0, 8)]["image"])


def test_a_kept_image_is_not_loaded_again(
    items: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset(items, folder)[0]
    monkeypatch.setattr(LoadUltrasoundd, "__call__", lambda *_: pytest.fail("loaded again"))
    assert torch.equal(dataset(items, folder)[0]["label"], first["label"])


def test_a_changed_file_setting_or_value_is_never_served_stale(items: list[dict[str, Any]], folder: Path) -> None:
    before = dataset(items, folder)[0]["label"]
    mask = Path(items[0]["label"][0])
    status = mask.stat()
    Image.fromarray(1 - np.asarray(Image.open(mask))).save(mask)
    os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps its time
    changed = dataset(items, folder, memory_gb=1.0)
    assert torch.equal(changed[0]["label"], 1 - before)
    Image.fromarray(1 - np.asarray(Image.open(mask))).save(mask)
    assert torch.equal(changed[0]["label"], before)  # nor from memory
    assert dataset(items, folder, transform=transforms(longest=20))[0]["image"].shape == (1, 20, 20)
    swapped = [{**items[0], "mask_values": {0: 1, 1: 0}}]
    assert torch.equal(dataset(swapped, folder)[0]["label"], 1 - before)


def test_names_and_places_do_not_matter(items: list[dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    dataset(items, folder)[0]
    moved = tmp_path / "moved.png"
    os.rename(items[0]["image"], moved)
    dataset([{**items[0], "image": str(moved), "patient": "another", "item": "item 9"}], folder)[0]
    assert len(entries(folder)) == 1


def test_the_folder_keeps_its_bound_and_what_was_used(tmp_path: Path, folder: Path) -> None:
    items = make_items(tmp_path, 60)
    dataset(items[:1], folder)[0]
    size = entries(folder)[0].stat().st_size
    favorite = entries(folder)[0]
    bound = 25 * size
    data = dataset(items, folder, disk_gb=bound / 1e9)
    data.disk_bound = bound
    for place in range(60):
        if place % 5 == 0:
            os.utime(favorite, (time.time() + 60, time.time() + 60))
        # an entry may be larger than the share written between two looks here; look each time
        data.written = None
        data._write(data._key(items[place]), data._pre_transform(dict(items[place])))
        assert sum(entry.stat().st_size for entry in entries(folder)) <= bound
    assert favorite.exists()


def test_memory_keeps_its_bound(items: list[dict[str, Any]]) -> None:
    data = dataset(items, None, memory_gb=2.5 * (8192 + 2 * 32 * 32) / 1e9)
    for place in (0, 1, 2, 1):
        data[place]
        assert data.memory_used <= data.memory_bound
        assert data.memory_used == sum(8192 + 2 * 32 * 32 for _ in data.memory)
    assert len(data.memory) == 2


def test_a_damaged_entry_is_made_again(
    items: list[dict[str, Any]], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = dataset(items, folder)[0]
    for content in (b"", b"PK\x03\x04", entries(folder)[0].read_bytes()[:-50]):
        entries(folder)[0].write_bytes(content)
        assert torch.equal(dataset(items, folder)[0]["label"], first["label"])
        assert "a whole cache entry expected" in caplog.text
        caplog.clear()
    assert torch.equal(dataset(items, folder)[0]["label"], first["label"])
    assert not caplog.text


def fill(items: list[dict[str, Any]], folder: Path) -> None:
    torch.set_num_threads(1)
    while True:
        data = dataset(items, folder)
        for place in range(len(items)):
            data[place]
        for entry in entries(folder):
            entry.unlink(missing_ok=True)


def test_a_kill_leaves_no_entry_in_part(items: list[dict[str, Any]], folder: Path) -> None:
    """Two processes fill and empty one folder; both are killed in the middle."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fill, args=(items, folder)) for _ in range(2)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 600
    while not entries(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    for process in processes:
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    for entry in entries(folder):
        assert set(torch.load(entry, weights_only=True)) >= {"image", "label"}
    assert torch.equal(dataset(items, folder)[1]["label"], dataset(items, None)[1]["label"])


def test_workers_share_the_folder(items: list[dict[str, Any]], folder: Path) -> None:
    expected = [dataset(items, None)[Draw(i, i)]["image"] for i in range(3)]
    for _ in range(2):
        loader = DataLoader(dataset(items, folder), batch_size=1, num_workers=2, sampler=[Draw(i, i) for i in range(3)])
        for batch, image in zip(loader, expected, strict=True):
            assert torch.equal(batch["image"][0], image)
    assert len(entries(folder)) == 3


def test_without_a_folder_training_goes_on(
    items: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = dataset(items, Path(items[0]["image"]))
    assert data.cache_dir is None
    assert "must be a folder that can be written" in caplog.text
    assert data[0]["image"].shape == (1, 32, 32)


def test_a_file_that_is_gone_is_named(items: list[dict[str, Any]], folder: Path) -> None:
    data = dataset([{**items[0], "image": "gone.png"}], folder)
    with pytest.raises(RuntimeError) as error:
        data[0]
    assert "gone.png" in str(error.value.__cause__)


def test_negative_bounds_are_refused(items: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"memory_gb must be 0 or more, in 10\^9 bytes, got -1"):
        dataset(items, None, memory_gb=-1)


class Darker(MapTransform):
    """A transform of somebody else, whose program may change."""

    factor = 0.5

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "image": data["image"] * self.factor}


def halve(image: torch.Tensor) -> torch.Tensor:
    return image / 2


class Halved(LoadUltrasoundd):
    def __call__(self, data: Any) -> dict[str, Any]:
        item = super().__call__(data)
        return {**item, "image": item["image"] / 2}


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (Darker("image"), "Darker"),
        (Lambdad("image", func=halve), "Lambdad"),
        (Lambdad("image", func=functools.partial(torch.mul, other=0.5)), "Lambdad"),
    ],
    ids=["class", "function", "partial"],
)
def test_transforms_of_others_are_not_kept_and_named(
    items: list[dict[str, Any]], folder: Path, extra: Any, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    steps = [LoadUltrasoundd(), LoadMaskd(num_structures=2), ShrinkSampled(32)]
    with_extra = Compose([*steps, extra, RandScaleIntensityd("image", 0.5, prob=0.0)])
    plain = Compose([*steps, RandScaleIntensityd("image", 0.5, prob=0.0)])
    first = dataset(items, folder, transform=with_extra)[Draw(0, 1)]["image"]
    assert f"{name} and what follows is not kept in the cache" in caplog.text
    expected = dataset(items, None, transform=plain)[Draw(0, 1)]["image"].float()
    assert torch.allclose(first.float(), expected / 2)
    monkeypatch.setattr(Darker, "factor", 0.25)  # as a program that was edited
    again = dataset(items, folder, transform=with_extra)[Draw(0, 1)]["image"].float()
    assert torch.allclose(again, expected / (2 if name == "Lambdad" else 4))
    assert len(entries(folder)) == 1  # what comes before it is kept


def test_a_class_derived_from_ours_is_not_taken_for_ours(items: list[dict[str, Any]], folder: Path) -> None:
    steps = [LoadMaskd(num_structures=2), ShrinkSampled(32)]
    ours = dataset(items, folder, transform=Compose([LoadUltrasoundd(), *steps]))[0]["image"]
    theirs = dataset(items, folder, transform=Compose([Halved(), *steps]))[0]["image"]
    assert not torch.equal(ours, theirs)


def test_the_shipped_transforms_are_all_kept(items: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs/train.yaml")))
    transform = parser.get_parsed_content("train#preprocessing")
    data = dataset(items, None, transform=transform)
    names = [type(t).__name__ for t in transform.transforms[: data.kept + 1]]
    assert names == ["ItemDefaultsd", "LoadUltrasoundd", "LoadMaskd", "ShrinkSampled", "DeleteItemsd", "RandGeometryd"]
    assert "not kept" not in caplog.text


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_values_beside_a_header_are_never_served_for_others(tmp_path: Path, folder: Path, suffix: str) -> None:
    items = []
    for n in (1, 2):
        image = in_two_parts(tmp_path / f"{n}/image{suffix}", np.full((4, 4), 100 * n))
        mask = in_two_parts(tmp_path / f"{n}/mask{suffix}", np.full((4, 4), n - 1))
        items.append({"image": str(image), "label": [str(mask)]})

    def shown() -> list[tuple[int, int]]:
        data = dataset(items, folder, transform=transforms(longest=4), memory_gb=1.0)
        seen = [data._cachecheck(item) for item in items]
        return [(round(float(one["image"].max())), int(one["label"].max())) for one in seen]

    assert shown() == [(100, 0), (200, 1)]
    for name in ("image", "mask"):
        (tmp_path / f"1/{name}.raw").write_bytes((tmp_path / f"2/{name}.raw").read_bytes())
    assert shown() == [(200, 1), (200, 1)]
