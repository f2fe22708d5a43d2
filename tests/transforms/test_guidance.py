# SPDX-License-Identifier: Apache-2.0
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from bundle.transforms import DrawGuidanced, LoadUltrasoundd

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/inference.yaml")
STRUCTURES = ["background", "Lesion", "nerve"]
NOTHING: dict[str, Any] = {"wanted": [], "unwanted": [], "box": None, "mask": None}


def png(pixels: np.ndarray) -> str:
    """A PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Shipped(NamedTuple):
    """The transforms of the shipped inference.yaml, and the rest of it."""

    before: Compose
    after: Compose
    parser: ConfigParser


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    return Shipped(*(parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing")), parser)


LESION = slice(5, 7)  # channels of the first structure: the image has three, the unnamed slot two


def save(folder: Path, pixels: np.ndarray, suffix: str) -> Path:
    """An image file, as PNG or as a study with a third axis."""
    path = folder / f"image{suffix}"
    if suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(pixels.T[..., None].copy(), np.diag([0.2, 0.1, 1, 1])), path)
    return path


def center(weights: torch.Tensor) -> list[float]:
    """Row and column of the center of mass of (H, W)."""
    rows, columns = torch.arange(weights.shape[0]), torch.arange(weights.shape[1])
    total = weights.sum()
    return [float((weights.sum(1) * rows).sum() / total), float((weights.sum(0) * columns).sum() / total)]


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
@pytest.mark.parametrize(
    ("shape", "place"), [((30, 50), (7, 41)), ((50, 30), (41, 7)), ((300, 500), (70, 410)), ((37, 37), (2, 30))]
)
def test_a_click_on_a_bright_spot_lands_on_it(
    shipped: Shipped, tmp_path: Path, shape: tuple[int, int], place: tuple[int, int], suffix: str
) -> None:
    row, column = place
    spot = shape[0] // 100  # pixels on each side of its middle
    pixels = np.zeros(shape, np.uint8)
    pixels[row - spot : row + spot + 1, column - spot : column + spot + 1] = 255
    request = {"lesion": [[column, row, 0]], "background": [[0, shape[0] - 1, 0]]}
    item = shipped.before({"image": str(save(tmp_path, pixels, suffix)), **request})
    image = item["image"].as_tensor()
    assert image.shape == (13, 224, 224)
    wanted, unwanted = image[LESION]
    bright = image[0] - image[0].min()
    assert center(wanted) == pytest.approx(center(bright), abs=0.5)
    assert bright[wanted > 0].max() == bright.max()
    assert wanted.sum() == pytest.approx(np.pi * 25, abs=10)
    # the image's lower left corner: half a native pixel inside the letterboxed image, five pixels below and left of it
    scale = 224 / max(shape)
    lowest, leftmost = 111.5 + (shape[0] - 1) * scale / 2 + 5, 111.5 - (shape[1] - 1) * scale / 2 - 5
    assert unwanted.nonzero()[:, 0].max() == pytest.approx(min(lowest, 223), abs=1)
    assert unwanted.nonzero()[:, 1].min() == pytest.approx(max(leftmost, 0), abs=1)
    assert item["clicks"] == {1: {"wanted": 1, "unwanted": 1}}
    assert not image[3:5].any()
    assert not image[7:].any()


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """An image of 56 x 112 pixels. Doubled, with 56 rows above it: pixel (r, c) comes to (2 r + 56.5, 2 c + 0.5)."""
    random = np.random.default_rng(0)
    return str(save(tmp_path, random.integers(0, 255, (56, 112), np.uint8), ".png"))


def test_a_box_lands_on_its_pixels(shipped: Shipped, wide: str) -> None:
    image = shipped.before({"image": wide, "box": [10, 5, 20, 15], "label": "lesion"})["image"]
    wanted, unwanted = image[LESION].as_tensor()
    expected = torch.ones(224, 224)
    expected[67:87, 21:41] = 0  # rows 66.5 to 86.5, columns 20.5 to 40.5
    assert torch.equal(unwanted, expected)
    assert not wanted.any()


@pytest.mark.parametrize(("left", "column"), [(1000, 112), (1003, 112), (1005, 112), (1009, 113)])
def test_a_box_smaller_than_a_pixel_of_the_grid_is_one_pixel(
    shipped: Shipped, tmp_path: Path, left: int, column: int
) -> None:
    path = str(save(tmp_path, np.zeros((2000, 2000), np.uint8), ".png"))  # 8.93 pixels become one
    image = shipped.before({"image": path, "box": [left, 500, left + 3, 502], "label": "lesion"})["image"]
    inside = (image[LESION][1] == 0).nonzero().tolist()
    assert inside == [[56, column]]  # middles: row 55.7; 111.7, 112.0, 112.3, 112.7


def test_a_former_mask_lands_on_its_pixels(shipped: Shipped, wide: str) -> None:
    mask = np.random.default_rng(1).random((56, 112)) > 0.5
    image = shipped.before({"image": wide, "mask": png(mask), "label": "lesion"})["image"]
    wanted, unwanted = image[LESION].as_tensor()
    expected = torch.zeros(224, 224)
    expected[56:168] = torch.from_numpy(0.5 * mask.repeat(2, 0).repeat(2, 1))
    assert torch.equal(wanted, expected)
    assert not unwanted.any()


def test_a_former_mask_of_another_size_is_refused(
    shipped: Shipped, wide: str, reasons: Callable[[BaseException], str]
) -> None:
    for shape, got in (((112, 56), "112x56"), ((224, 224), "224x224")):
        with pytest.raises(RuntimeError, match=r"applying transform .*DrawGuidanced") as caught:  # MONAI's Compose
            shipped.before({"image": wide, "mask": png(np.zeros(shape, np.uint8))})
        assert (
            f"image.png: mask must have the size of the image, 56x112 (rows x columns), got {got}; send the mask of"
            " this image." in reasons(caught.value)
        )


def test_clicks_beside_the_image_are_dropped(shipped: Shipped, wide: str) -> None:
    beside = [[-1, 3], [112, 3], [3, -0.6], [3, 55.6]]
    item = shipped.before({"image": wide, "lesion": [*beside, [111.4, 3]], "background": beside})
    wanted, unwanted = item["image"][LESION].as_tensor()
    assert item["clicks"] == {1: {"wanted": 1, "unwanted": 0}}
    assert wanted.sum() < 81  # half a disk at the border
    assert not unwanted.any()
    assert shipped.before({"image": wide, "lesion": beside})["clicks"] == {1: {"wanted": 0, "unwanted": 0}}


def test_each_structure_has_its_channels(shipped: Shipped, wide: str) -> None:
    item = shipped.before({"image": wide, "foreground": [[9, 9]], "vessel": [[30, 9]], "nerve": [[60, 9]]})
    channels = item["image"].as_tensor()[3:].unflatten(0, (5, 2))  # slot, wanted and unwanted
    assert channels.flatten(2).any(2).tolist() == [[True] * 2, [False] * 2, [False] * 2, [True] * 2, [True] * 2]
    assert torch.equal(channels[0, 1], torch.maximum(channels[3, 0], channels[4, 0]))
    assert torch.equal(channels[4, 1], torch.maximum(channels[0, 0], channels[3, 0]))


def test_without_guidance_the_image_stays(shipped: Shipped, wide: str) -> None:
    plain = shipped.before({"image": wide})
    assert plain["image"].shape == (3, 224, 224)
    assert not {"guidance", "clicks"} & set(plain)
    guided = shipped.before({"image": wide, "foreground": [[9, 9]], "position": "breast"})
    assert torch.equal(guided["image"][:3].as_tensor(), plain["image"].as_tensor())


def test_the_drawing_leaves_its_input_alone(wide: str) -> None:
    item = LoadUltrasoundd("image")({"image": wide})
    item["guidance"] = {0: {**NOTHING, "wanted": [(5.0, 9.0)]}}
    drawn = DrawGuidanced(STRUCTURES, 3.0)(item)
    assert item["image"].shape == (3, 56, 112)
    assert "guidance" in item
    assert drawn["image"].shape == (9, 56, 112)
    assert drawn["image"][3, 5, 12] == 1
    assert drawn["image"][3].sum() == 29  # lattice points with x^2 + y^2 <= 9


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
@pytest.mark.parametrize("tall", [False, True])
def test_history_survives_and_the_prediction_returns_to_the_study(
    shipped: Shipped, tmp_path: Path, suffix: str, tall: bool
) -> None:
    pixels = np.zeros((64, 128), np.uint8)
    pixels[4:20, 8:40] = 255
    pixels = pixels.T.copy() if tall else pixels
    place = [12, 24] if tall else [24, 12]
    path = save(tmp_path, pixels, suffix)
    item = shipped.before({"image": str(path), "lesion": [place], "background": [place[::-1]], "position": "breast"})
    plain = shipped.before({"image": str(path), "position": "breast"})["image"]
    assert isinstance(item["image"], MetaTensor)
    assert [done["class"] for done in item["image"].applied_operations] == [
        done["class"] for done in plain.applied_operations
    ]
    assert item["image"].meta["prompt"].tolist() == plain.meta["prompt"].tolist()
    assert torch.equal(item["image"].affine, plain.affine)
    bright = item["image"].as_tensor()[0] > 0  # a network that sees lesion where it is bright
    item["pred"] = {
        "seg": torch.stack([~bright, bright, *[~bright * 0] * 3]).float() * 40,
        "cls_breast": torch.zeros(3),
    }
    done = shipped.after(item)
    study = pixels.T == 255
    assert np.array_equal(done["pred"].numpy() == 1, study if suffix == ".png" else study[..., None])
    assert done["result"]["areas"]["lesion"]["pixels"] == 16 * 32
    assert done["result"]["clicks"] == {"lesion": {"wanted": 1, "unwanted": 1}}


def answer(shipped: Shipped, path: str, **request: Any) -> dict[str, Any]:
    """The shipped way of a request, by a network that sees vessel everywhere and lesion in the left half."""
    item = shipped.before({"image": path, "image_path": path, **request})
    seg = torch.zeros(5, 224, 224)
    seg[4], seg[1, :, :112] = 5.0, 9.0
    inferer = shipped.parser.get_parsed_content("inferer")
    outputs = inferer(item["image"][None], Sees(seg))
    done: dict[str, Any] = shipped.after({**item, "pred": {name: out[0] for name, out in outputs.items()}})
    return done


class Sees(torch.nn.Module):
    """A network that sees the same in every image, guided or not."""

    def __init__(self, seg: torch.Tensor) -> None:
        super().__init__()
        self.seg = seg

    def forward(self, image: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        return self.seg.expand(len(image), -1, -1, -1)

    def predict(self, image: torch.Tensor, prompt: torch.Tensor) -> dict[str, torch.Tensor]:
        sets = {"breast": 3, "lung": 3, "gallbladder": 2}
        return {"seg": self(image, prompt).clone(), **{f"cls_{n}": torch.zeros(len(image), k) for n, k in sets.items()}}


@pytest.mark.parametrize("size", [(56, 112), (471, 562), (900, 900)])
def test_a_background_click_becomes_no_other_structure(shipped: Shipped, tmp_path: Path, size: tuple[int, int]) -> None:
    path = str(save(tmp_path, np.zeros(size, np.uint8), ".png"))
    row, column = size[0] // 2, size[1] // 3
    for position in ("unknown", "breast", "limb"):
        request = {"lesion": [[column, row, 0]], "background": [[column + 20, row, 0]], "position": position}
        mask = answer(shipped, path, **request)["pred"].numpy().T
        assert (mask[row, column], mask[row, column + 20]) == (1, 0)
        assert 4 not in mask  # where a limb was said, the background click takes the vessel away that it lies in


def test_a_box_without_a_finding_says_so(shipped: Shipped, wide: str) -> None:
    found = answer(shipped, wide, box=[10, 5, 20, 15], label="lesion")
    mask = found["pred"].numpy().T
    assert np.argwhere(mask).min(0).tolist() == [5, 10]
    assert np.argwhere(mask).max(0).tolist() == [15, 20]
    assert set(np.unique(mask)) == {0, 1}
    assert found["result"]["notes"] == ""
    empty = answer(shipped, wide, box=[80, 5, 90, 15], label="lesion")
    assert not empty["pred"].any()
    assert empty["result"]["notes"] == "lesion: nothing was found in the box"


@pytest.mark.parametrize("box", [[112, 5, 120, 9], [-9, -9, -1, -1], [5, 56, 9, 80], [1e300, 0, 1e308, 9]])
def test_a_box_beside_the_image_is_refused(shipped: Shipped, wide: str, box: list[float], reasons: Any) -> None:
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        shipped.before({"image": wide, "box": box})
    assert "image.png: box or roi must overlap the image, 112 x 56 pixels (x, y), got [" in reasons(caught.value)


@pytest.mark.parametrize("box", [[-1e300, -5, 1e300, 9], [30, 20, -4, 3]])
def test_a_box_across_the_border_is_cut(shipped: Shipped, wide: str, box: list[float]) -> None:
    rows, columns = np.nonzero(answer(shipped, wide, box=box, label="lesion")["pred"].numpy().T)
    assert (columns.min(), rows.max()) == (0, max(box[1], box[3]))
