# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image

from bundle.data.phantom.store import synthesize
from bundle.live.sources import open_source
from bundle.transforms import CheckPlausibled, LoadUltrasoundd
from bundle.transforms.plausibility import implausible, implausible_picture
from tests.transforms.drawn_images import as_image, doppler, gradient, landscape, page, screen, speckle, tinted

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/inference.yaml")
SKIMAGE = Path(skimage.__file__).parent / "data"
GLOBS = ("Dataset_BUSI_with_GT/*/*).png", "segmentation/*/imgs/*", "classification/*/[012]/*")
NOT_ULTRASOUND = {
    "page": (page((128, 128)), "more than half of it is white"),
    "scanned page": (page((600, 420), paper=190, noise=6), "dark strokes on a bright ground"),
    "gradient": (gradient(128, 128), "100% of the bright pixels without grain"),
    "large gradient": (gradient(900, 1200), "100% of the bright pixels without grain"),
    "landscape": (landscape(128, 128), "98% of the bright pixels without grain"),
    "large landscape": (landscape(1080, 1920), "without grain"),
    "gray": (np.full((128, 128), 128, np.uint8), "one value throughout"),
    "black": (np.zeros((300, 400, 3), np.uint8), "one value throughout"),
    "small gray": (np.full((2, 3), 90, np.uint8), "one value throughout"),
}


@pytest.mark.parametrize("name", NOT_ULTRASOUND)
def test_made_pictures_are_told_from_ultrasound(name: str) -> None:
    pixels, reason = NOT_ULTRASOUND[name]
    assert reason in implausible(as_image(pixels))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("page.png", "dark strokes"),
        ("text.png", "dark strokes"),
        ("horse.png", "without grain"),
        ("color.png", "without grain"),
        ("astronaut.png", "42% of the pixels in colors"),
        ("chelsea.png", "95% of the pixels in colors"),
        ("coffee.png", "91% of the pixels in colors"),
        ("rocket.jpg", "in colors"),
        ("camera.png", ""),  # photographs in gray pass
        ("coins.png", ""),
        ("retina.jpg", ""),  # as does one of a single hue, which a tinted scan has too
    ],
)
def test_pictures_of_scikit_image(name: str, reason: str) -> None:
    found = implausible(LoadUltrasoundd()({"image": str(SKIMAGE / name)})["image"])
    assert reason in found
    assert bool(found) == bool(reason)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as it is": lambda image: image,
    "Doppler": doppler,
    "tinted": tinted,
    "screen": screen,
    "dark": lambda image: (image * 25).floor() / 255,
    "dark screen": lambda image: screen((image * 25).floor() / 255),
    "black screen": lambda image: screen(torch.zeros_like(image)),
    "enlarged": lambda image: torch.nn.functional.interpolate(image[None], scale_factor=3, mode="bicubic")[0].clamp(
        0, 1
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_speckle_passes(change: str) -> None:
    assert implausible(CHANGES[change](as_image(speckle()))) == ""


@pytest.mark.parametrize("shape", [(30, 30), (90, 50, 3), (600, 800, 3)])
def test_noise_passes(shape: tuple[int, ...]) -> None:
    assert implausible(as_image(np.random.default_rng(0).integers(0, 255, shape, np.uint8))) == ""


def test_images_of_the_phantom_pass(tmp_path: Path) -> None:
    files = sorted((synthesize(tmp_path / "phantom", seed=0, patients=15).parent / "images").glob("*"))
    assert len(files) >= 30
    assert {path.name: reason for path in files if (reason := implausible(load(path)))} == {}
    bright = {path.name: (load(path).as_subclass(torch.Tensor) * 1.5).clamp(max=1) for path in files}
    assert {name: reason for name, image in bright.items() if (reason := implausible(image))} == {}


def load(path: Path) -> torch.Tensor:
    image: torch.Tensor = LoadUltrasoundd()({"image": str(path)})["image"]
    return image


@pytest.mark.parametrize("change", CHANGES)
def test_real_images_pass(real_data: Path, change: str) -> None:
    """Every 40th of the public sets, also as a scanner could have shown it otherwise."""
    files = [path for glob in GLOBS for path in sorted(real_data.glob(glob))][::40]
    assert len(files) == 63
    refused = {
        path.name: reason
        for path in files
        if (reason := implausible(CHANGES[change](load(path).as_subclass(torch.Tensor))))
    }
    assert refused == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_real_image_is_refused(real_data: Path) -> None:
    """All images of the public sets, the DICOM files, the stills, and every 20th frame of the clips."""
    counts = {"sets": 0, "files": 0, "frames": 0}
    refused = {}
    for kind, name, image in real_images(real_data):
        counts[kind] += 1
        if reason := implausible(image):
            refused[name] = reason
    assert refused == {}
    assert counts["sets"] == 2514
    assert counts["files"] == 22
    assert counts["frames"] > 90


def real_images(folder: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    for glob in GLOBS:
        for path in folder.glob(glob):
            yield "sets", path.name, load(path)
    for path in sorted([*folder.glob("dicom/*"), *folder.glob("cine/*")]):
        if path.suffix in (".mp4", ".mov", ".mpeg") or path.stem == "pydicom_examples_ybr_color":
            for number, picture in enumerate(open_source(str(path)).pictures()):
                if picture is not None and not isinstance(picture, Exception) and number % 20 == 0:
                    yield "frames", f"{path.name} {number}", as_image(picture.pixels)
        else:
            yield "files", path.name, load(path)


def test_it_takes_a_millisecond() -> None:
    """Fastest of 20, for a machine that does other things too; 800 x 600 pixels."""
    image = MetaTensor(as_image(np.random.default_rng(0).integers(0, 256, (600, 800), np.uint8)))
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        implausible(image)
        times.append(time.perf_counter() - begin)
    assert min(times) < 1.5e-3


@pytest.fixture
def shipped() -> Callable[..., dict[str, Any]]:
    """What the shipped inference.yaml says of a file, with a network that sees lesion everywhere."""

    def answer(
        path: Path, *, check_images: bool | str = True, probabilities: bool = False, **request: Any
    ) -> dict[str, Any]:
        parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
        parser.update({"check_images": check_images, "probabilities": probabilities})
        item = parser.get_parsed_content("preprocessing")({"image": str(path), "position": "breast", **request})
        seg = torch.zeros(5, 224, 224)
        seg[1] = 9
        item["pred"] = {"seg": seg, **{f"cls_{name}": torch.zeros(n) for name, n in (("breast", 3), ("lung", 3))}}
        found: dict[str, Any] = parser.get_parsed_content("postprocessing")(item)
        return found

    return answer


NOTE = "does not look like ultrasound (more than half of it is white)"


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    Image.fromarray(page((90, 120))).save(tmp_path / "page.png")
    return tmp_path / "page.png"


@pytest.mark.parametrize("probabilities", [False, True])
def test_nothing_is_reported_of_a_page(
    shipped: Callable[..., dict[str, Any]], paper: Path, probabilities: bool
) -> None:
    found = shipped(paper, probabilities=probabilities)
    assert found["result"]["notes"] == f"{NOTE}; nothing is reported"
    assert found["result"]["classes"] == {}
    assert found["result"]["prediction"] == []
    assert found["result"]["areas"]["lesion"] == {"pixels": None, "mm2": None}
    assert found["pred"].shape == (120, 90)
    assert found["pred"].count_nonzero() == 0
    assert "probability_maps" not in found


@pytest.mark.parametrize("value", [False, "false"])
def test_the_check_can_be_switched_off(shipped: Callable[..., dict[str, Any]], paper: Path, value: bool | str) -> None:
    found = shipped(paper, check_images=value)
    assert found["result"]["notes"] == ""
    assert found["result"]["areas"]["lesion"]["pixels"] == 90 * 120
    assert list(found["result"]["classes"]) == ["breast"]


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="check_images must be true or false, got 'no'; correct --check_images"):
        CheckPlausibled("image", enabled="no")


def test_a_users_clicks_count_more_than_the_check(shipped: Callable[..., dict[str, Any]], paper: Path) -> None:
    found = shipped(paper, lesion=[[60, 45]])
    assert found["result"]["notes"] == NOTE
    assert found["result"]["areas"]["lesion"]["pixels"] == 90 * 120
    assert list(found["result"]["classes"]) == ["breast"]


def test_ultrasound_gets_its_result(shipped: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    Image.fromarray(speckle()).save(tmp_path / "speckle.png")
    found, unchecked = (shipped(tmp_path / "speckle.png", check_images=value) for value in (True, False))
    assert found["result"] == unchecked["result"]
    assert found["result"]["areas"]["lesion"]["pixels"] == 120 * 160


@pytest.mark.parametrize("shape", [(300, 400), (131, 97), (300, 400, 3)])
def test_pictures_of_8_bits_are_judged_as_images_are(shape: tuple[int, ...]) -> None:
    """The measures agree whether the pixels come as [0, 1] or as bytes in OpenCV's order of colors."""
    rng = np.random.default_rng(0)
    photograph = np.linspace(40, 220, shape[1])[None, :, None] * np.array([1.0, 0.6, 0.1])
    pictures = [
        rng.integers(0, 256, shape, np.uint8),
        np.full(shape, 90, np.uint8),
        np.broadcast_to(photograph if len(shape) == 3 else photograph[..., 0], shape).astype(np.uint8),
        np.where(rng.random(shape) < 0.02, 20, 245).astype(np.uint8),
    ]
    reasons = []
    for picture in pictures:
        channels = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)[::-1]
        image = torch.from_numpy(channels.copy()).float() / 255
        reasons.append(implausible_picture(picture))
        assert reasons[-1] == implausible(image.expand(3, *image.shape[1:]))
    assert [bool(reason) for reason in reasons] == [False, True, True, True]
