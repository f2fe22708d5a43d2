# SPDX-License-Identifier: Apache-2.0
"""Images and their masks, paired by folder and name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundle.data.set_files import below_masks, place_of, stem_of

_MASK = re.compile(
    r"(?:(.+?)[ _-]+)?(?:masks?|msk|lesion|gt|g(?:round)?[ _-]?truth|labels?|seg|segmentation|annotations?)"
    r"(?:[ _-]?(\d+))?",
    re.I,
)
"""A mask's name: the image's, a word for masks, and a number where an image has several that are merged.

Without the image's name, ``mask.png`` belongs to the only image of its folder.
"""


@dataclass
class Pairing:
    """Images with their masks, in sorted order; and the files that stay without, a sentence each with the reason.

    ``images`` are all images, with masks or without.
    """

    pairs: list[tuple[Path, list[Path]]] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def pair_files(files: Sequence[Path], *, root: Path) -> Pairing:
    """Pairs of images and masks among the image files of a set.

    Masks lie in folders such as ``masks`` or ``gt``; where there is none, they are named after the image beside them
    (``x.png, x_mask.png``). A mask has its image's place and name, or that with a word such as ``_mask``, ``_lesion``
    or ``_gt``; or such a word alone, where its folder has one image (``image.png, mask.png``). Numbered ones
    (``_mask_1``) are merged; two others of one image are ambiguous, and the image is left out.

    Args:
        files: the image files.
        root: the folder of the set.
    """
    masks = [file for file in files if below_masks(file, root)] or masks_beside(files)
    images = sorted(set(files) - set(masks))
    of_image: dict[str, list[Path]] = {}
    for image in images:
        of_image.setdefault(stem_of(place_of(image, root)), []).append(image)
    of_mask: dict[str, list[tuple[Path, str]]] = {}
    images_of = Counter(_folder(place) for place in of_image)
    alone = {_folder(place): place for place in of_image if images_of[_folder(place)] == 1}
    found = Pairing(images=images)
    for mask in sorted(masks):
        place, number = _image_of(stem_of(place_of(mask, root)), of_image, alone)
        if place in of_image:
            of_mask.setdefault(place, []).append((mask, number))
        else:
            found.left_out.append(f"{mask}: expected an image of the name {place!r} in {root}, got none")
    for place, same in of_image.items():
        _pair(place, same, of_mask.get(place, []), found=found)
    found.pairs.sort()
    return found


def masks_beside(files: Iterable[Path]) -> list[Path]:
    """The files that are named after another file in their folder, with a word such as ``_mask``.

    And those that are named by such a word alone, where their folder has one image.
    """
    files = list(files)
    names = {(file.parent, stem_of(file.name)) for file in files}
    marked = {file: match for file in files if (match := _MASK.fullmatch(stem_of(file.name)))}
    named = {file for file, match in marked.items() if (file.parent, match.group(1)) in names}
    nameless = {file for file, match in marked.items() if match.group(1) is None} - named
    images = Counter(file.parent for file in files if file not in named and file not in nameless)
    return [file for file in files if file in named or (file in nameless and images[file.parent] == 1)]


def nameless_masks(files: Iterable[Path]) -> list[Path]:
    """The masks beside an image that do not have its name, such as ``mask.png`` beside ``image.png``."""
    return [f for f in masks_beside(files) if (match := _MASK.fullmatch(stem_of(f.name))) and not match.group(1)]


def _folder(place: str) -> str:
    return place.rpartition("/")[0]


def _image_of(place: str, images: Container[str], alone: Mapping[str, str]) -> tuple[str, str]:
    """The place of a mask's image, and the number of the mask, "" for the only or first one.

    Args:
        place: of the mask.
        images: places of all images.
        alone: folder -> the place of its only image.
    """
    folder, slash, name = place.rpartition("/")
    match = None if place in images else _MASK.fullmatch(name)
    if not match:
        return place, ""
    number = match.group(2) or ""
    if match.group(1):
        return folder + slash + match.group(1), number
    image = alone.get(folder, place)
    numbered = number and image[-1:].isdigit()  # image_3 and mask_4 may be of two patients
    return (place, "") if numbered else (image, number)


def _pair(place: str, images: Sequence[Path], masks: Sequence[tuple[Path, str]], *, found: Pairing) -> None:
    """Add the pair of one name to ``found``, or say why there is none."""
    numbers = [number for _, number in masks]
    if len(images) > 1:
        names = ", ".join(image.name for image in images)
        reason = (
            f"expected one image of the name {place!r}, got {len(images)} ({names}), and masks by name; rename them"
        )
        found.left_out += [f"{file}: {reason}" for file in (*images, *(mask for mask, _ in masks))]
    elif not masks:
        named = _MASK.fullmatch(stem_of(images[0].name))
        wanted = "the image that this mask is named after" if named else f"a mask of the name {place!r}"
        found.left_out.append(f"{images[0]}: expected {wanted}, got none")
    elif len(set(numbers)) < len(numbers):
        names = ", ".join(str(mask) for mask, _ in masks)
        found.left_out.append(
            f"{images[0]}: expected one mask of the name {place!r}, got {len(masks)} ({names}); remove all but one, or "
            "number those that belong together (x_mask_1.png, x_mask_2.png)"
        )
    else:
        found.pairs.append((images[0], [mask for mask, _ in masks]))
