# SPDX-License-Identifier: Apache-2.0
"""What a MONAI Label client says about an image, in any client's dialect, checked key by key."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from PIL import Image

from bundle.files import IMAGE_SUFFIXES, RESULT_SUFFIXES
from bundle.guidance import Box, Point
from bundle.transforms.readers import check_size
from bundle.transforms.spacing import BY_USER, SHOWN, told_spacing
from bundle.vocabulary import BACKGROUND, REQUESTED_PROMPTS, UNKNOWN, Organs

GUIDANCE_KEYS = ("foreground", BACKGROUND, "box", "roi", "mask")
OTHER_KEYS = (
    "boxes", "bbox", "bboxes", "bounding_box", "rect", "rectangle", "rois", "click", "clicks", "point", "points",
    "pos_points", "neg_points", "positive", "negative", "positive_points", "negative_points", "point_coords",
    "point_labels", "foreground_points", "background_points", "scribble", "scribbles", "polygon", "contour", "masks",
    "mask_input", "guidance",
)  # fmt: skip
"""What other tools call guidance, in lower case; here a list or text of that name has no effect."""
UNNAMED = 0
"""Slot of guidance whose structure the user did not name; the other slots are those structures' indices."""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _numbers(value: Any) -> list[float]:
    """A list of finite numbers as floats; text and true or false are none.

    Raises:
        ValueError, OverflowError: when it is something else.
    """
    if not isinstance(value, (list, tuple, np.ndarray)) or any(
        isinstance(v, bool) or not isinstance(v, (int, float, np.number)) for v in value
    ):
        raise ValueError("not a list of numbers")
    numbers = [float(v) for v in value]
    if not all(math.isfinite(n) for n in numbers):
        raise ValueError("not finite")
    return numbers


def _points(value: Any, key: str) -> list[Point]:
    """Clicks [[x, y], ...] or [[x, y, z], ...], in index order of the study, as (row, column)."""
    if value is None or (isinstance(value, (str, list, tuple)) and not value):
        return []
    try:
        if not isinstance(value, (list, tuple)):
            raise ValueError("not a list")
        clicks = [_numbers(click) for click in value]
        if any(len(click) not in (2, 3) for click in clicks):
            raise ValueError("neither two numbers nor three")
    except (ValueError, OverflowError) as e:
        raise ValueError(
            f"{key} must be a list of clicks [x, y] or [x, y, z], got {_short(value)}; correct it, with finite numbers."
        ) from e
    return [(click[1], click[0]) for click in clicks]


def _are_points(value: Any) -> bool:
    """Whether a value reads as clicks: a list of lists of two or three numbers, not empty."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(click, (list, tuple)) for click in value):
        return False
    try:
        return bool(_points(value, "clicks"))
    except ValueError:
        return False


def _box(value: Any, key: str) -> Box:
    """A box in index order of the study, as (first row, first column, last row, last column).

    It comes as [x, y, x, y], or as 3D Slicer's [x, x, y, y, z, z].
    """
    try:
        numbers = _numbers(value)
        x0, y0, x1, y1 = (numbers[i] for i in (0, 2, 1, 3)) if len(numbers) == 6 else numbers
    except (ValueError, OverflowError) as e:
        raise ValueError(
            f"{key} must be four numbers [x, y, x, y], got {_short(value)}; correct it, with finite numbers."
        ) from e
    return min(y0, y1), min(x0, x1), max(y0, y1), max(x0, x1)


def _mask(value: Any, key: str) -> np.ndarray:
    """A former mask, base64 text of a PNG, as (H, W) bool; its size is looked at before a pixel is unpacked."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(value, validate=True)), formats=["PNG"]) as image:
            check_size(*image.size)
            return _foreground(image)
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as e:
        raise ValueError(f"{key} must be a PNG in base64, got something else ({e}); encode the mask's file.") from e


def _foreground(image: Image.Image) -> np.ndarray:
    """Pixels (H, W) whose index, gray or color is not zero and that are not transparent."""
    found = np.asarray(np.asarray(image) > 0)
    if found.ndim == 2:
        return found
    return np.asarray(found.any(-1) if image.mode == "RGB" else found[..., :-1].any(-1) & found[..., -1])


def _check_server(item: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the key when MONAI Label gives no image or is asked for a file that cannot be."""
    image, path, asked = item["image"], str(item.get("image_path") or ""), item.get("result_extension")
    if not isinstance(image, (str, os.PathLike, torch.Tensor)) or (isinstance(image, str) and not image):
        raise ValueError(
            f"image must be the id of an image that the server has, got {_short(image) if image else 'another id'};"
            " GET /datastore/?output=all lists them, or send the file along."
        )
    if asked and asked not in RESULT_SUFFIXES:
        raise ValueError(
            f"result_extension must be one of {' '.join(RESULT_SUFFIXES)}, got {_short(asked)}; correct it."
        )
    if path and not asked and not path.lower().endswith(IMAGE_SUFFIXES) and not os.path.isdir(path):
        raise ValueError(
            f"file must have a name that ends with one of {' '.join(IMAGE_SUFFIXES)}, got"
            f" {os.path.basename(path)!r}; send it with its suffix, or say in result_extension what the label map"
            " should be."
        )


class ReadRequestd(Transform):
    """Gathers what a MONAI Label client says about an image: one value per prompt, and ``guidance``.

    Reads the dialects of 3D Slicer and OHIF (``{structure: [[x, y, z], ...], "background": [...]}``), of deepgrow
    clients and CVAT (``foreground`` and ``background`` lists, ``label`` names the structure or is absent), boxes
    (``box`` or ``roi``, [x, y, x, y] or 3D Slicer's [x, x, y, y, z, z], of ``label``) and former masks (``mask``, a
    base64 PNG, of ``label``). ``foreground`` clicks of label background are ``background`` clicks. A box or mask
    without ``label`` belongs to the one structure that is clicked at by name, if there is one. Absent and empty keys
    are no guidance. A click on one structure is a click against every other one that is guided.
    MONAI Label's own click transforms take 3D clicks on 3D images, and 2D clicks on 2D images, alone.

    ``guidance_notes`` says which guidance names a structure that the network does not know or has a key that is not
    read, and that the network knows nothing of the position's organ.

    ``guidance`` maps a slot (a structure's index, or 0 where none was named) to ``wanted`` and ``unwanted``, lists of
    (row, column), ``box`` and ``mask``, in pixels of the upright image; it is empty without clicks. A
    prompt that comes as the list of its choices becomes the first of them. ``spacing``, the mm of a pixel or [row,
    column], becomes [row, column] of the user.

    Args:
        structures: names of the segmentation channels, background first.
        max_clicks: most clicks in one request, all structures together; people need a tenth.
        organs: what there is to see in each organ; without it, nothing is said about the position.
        organ_points: organs of which key points are known.

    Raises:
        ValueError: in the call, when the image, clicks, a box, a mask or a name are no such thing; says which key.
    """

    def __init__(
        self,
        structures: Sequence[str],
        max_clicks: int = 200,
        *,
        organs: Organs | None = None,
        organ_points: Container[str] | None = None,
    ) -> None:
        self.slots = {name.lower(): i for i, name in enumerate(structures) if name != BACKGROUND}
        self.max_clicks = max_clicks
        self.organs, self.organ_points = organs, organ_points or ()

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``guidance``."""
        item = dict(data)
        _check_server(item)
        _told_spacing(item)
        for name in REQUESTED_PROMPTS:
            if isinstance(item.get(name), (list, tuple)):
                item[name] = item[name][0] if item[name] else UNKNOWN
        guidance = self._guidance(item)
        item["guidance_notes"] = [*self._unknown_names(item, guidance), *self._unanswered(item, guidance)]
        item.pop("clicks", None)  # of our own making alone
        item["guidance"] = guidance
        return item

    def _unknown_names(self, item: Mapping[str, Any], guidance: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
        """What names no structure of the network: ``label``, keys that hold clicks, and other tools' guidance."""
        label = _label(item)
        unnamed = guidance.get(UNNAMED)
        clicks_alone = unnamed is not None and unnamed["box"] is None and unnamed["mask"] is None
        if unnamed and isinstance(label, str) and label and not (clicks_alone and _is_background(label)):
            yield f"{_short(label)} is no structure of this model: what belongs to it counts as unnamed"
        for key, value in item.items():
            if key in (*self.slots, *GUIDANCE_KEYS):
                continue
            if str(key).lower() in OTHER_KEYS and isinstance(value, (str, list, tuple)) and value:
                yield (
                    f"{_short(key)} is no guidance that this model takes: it is not used; send a structure's name,"
                    f" {', '.join(GUIDANCE_KEYS[:-1])} or {GUIDANCE_KEYS[-1]}"
                )
            elif _are_points(value):
                yield f"{_short(key)} is no structure of this model: its clicks are not used"

    def _unanswered(self, item: Mapping[str, Any], guidance: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
        """Why an image of the position has an empty result, if the network knows nothing of that organ."""
        asked = [*guidance.values()]
        position = item.get("position")
        if self.organs is None or not isinstance(position, str) or not position:
            return
        if any(said["wanted"] or said["box"] is not None or said["mask"] is not None for said in asked):
            return
        if text := self.organs.unanswered([position], self.organ_points):
            yield f"position: {text}"

    def _guidance(self, item: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        self._check_number(item)
        label = _label(item)
        if label is not None and not isinstance(label, (str, list, tuple)):
            raise ValueError(f"label must be the name of a structure, got {_short(label)}; correct it.")
        wanted = {slot: _points(item.get(name), name) for name, slot in self.slots.items()}
        foreground = _points(item.get("foreground"), "foreground")
        unwanted = _points(item.get(BACKGROUND), BACKGROUND)
        if _is_background(label):
            foreground, unwanted = [], unwanted + foreground
        named = self.slots.get(str(label).lower(), UNNAMED)
        clicked = [slot for slot, points in wanted.items() if points]
        if named == UNNAMED and not foreground and len(clicked) == 1:
            named = clicked[0]
        wanted[named] = wanted.get(named, []) + foreground
        key = "box" if _given(item.get("box")) else "roi"
        boxes = {named: _box(item[key], key)} if _given(item.get(key)) else {}
        masks = {named: _mask(item["mask"], "mask")} if _given(item.get("mask")) else {}
        guided = {slot for slot, points in wanted.items() if points} | set(boxes) | set(masks)
        if unwanted and not guided:
            guided = {named}
        if UNNAMED in guided and isinstance(label, (list, tuple)) and label:
            raise ValueError(f"label must be the name of one structure, got {_short(label)}; send one name.")
        return {
            slot: {
                "wanted": wanted.get(slot, []),
                "unwanted": unwanted + [p for other in guided - {slot} for p in wanted.get(other, [])],
                "box": boxes.get(slot),
                "mask": masks.get(slot),
            }
            for slot in sorted(guided)
        }

    def _check_number(self, item: Mapping[str, Any]) -> None:
        lists = {key: item.get(key) for key in (*self.slots, "foreground", BACKGROUND)}
        counts = {key: len(value) for key, value in lists.items() if isinstance(value, (list, tuple))}
        if sum(counts.values()) > self.max_clicks:
            most = max(counts, key=counts.__getitem__)
            raise ValueError(
                f"{most} must hold at most {self.max_clicks} clicks together with the other keys of the request, got"
                f" {counts[most]}, {sum(counts.values())} in all; send fewer, or a former mask."
            )


def _label(item: Mapping[str, Any]) -> Any:
    """The name that a request gives, also as the one of a list; of a data list it holds mask files."""
    label = item.get("label")
    return label[0] if isinstance(label, (list, tuple)) and len(label) == 1 else label


def _told_spacing(item: dict[str, Any]) -> None:
    """Makes the mm of a pixel that a request gives row and column, of the user."""
    item.pop("spacing_source", None)  # of our own making alone
    given = item.get("spacing")
    unknown = isinstance(given, (list, tuple)) and len(given) == 2 and all(value != value for value in given)
    read = isinstance(item["image"], torch.Tensor) and isinstance(given, list)  # as a clip's frames are
    if given is not None and not unknown and not read:
        item |= {"spacing": list(told_spacing(given, option="spacing")), "spacing_source": BY_USER}


def _is_background(label: Any) -> bool:
    return isinstance(label, str) and label.lower() == BACKGROUND


def _given(value: Any) -> bool:
    """Whether a box or a mask is there: null, "" and [] are none."""
    return value is not None and not (isinstance(value, (str, list, tuple)) and not value)
