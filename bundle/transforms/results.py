# SPDX-License-Identifier: Apache-2.0
"""From the network's outputs to what the user gets: a label map, areas and classes in words, the form of the study."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, MapTransform, Transform

from bundle.files import METAIMAGE_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES
from bundle.transforms.guidance import hold_to_guidance
from bundle.transforms.items import add_note
from bundle.transforms.letterbox import Letterboxd, place_in_square, stretch_positive
from bundle.transforms.requests import UNNAMED
from bundle.vocabulary import NEUTRAL_POSITION, UNKNOWN, switch

PROMPTS_USED = ("position", "nature", "task")
NO_POSITION = (UNKNOWN, NEUTRAL_POSITION)
LOSSY_SUFFIXES = (".jpg", ".jpeg")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + NRRD_SUFFIXES + METAIMAGE_SUFFIXES


class SplitPredictiond(MapTransform):
    """Splits the network's dictionary of logits into segmentation probabilities and class probabilities.

    ``pred`` {"seg": (C, H, W), "cls_<label set>": (K,)} becomes ``pred``: (C, H, W) in [0, 1], summing to one over the
    channels, and ``probabilities``: {label set: (K,)}. A plain tensor is taken for the segmentation logits.

    Raises:
        ValueError: when a logit is not finite.
    """

    def __init__(self, keys: KeysCollection = "pred") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``pred`` split."""
        item = dict(data)
        for key in self.key_iterator(item):
            outputs = item[key] if isinstance(item[key], Mapping) else {"seg": item[key]}
            for name, logits in outputs.items():
                if not torch.isfinite(logits.sum(dtype=torch.float32)):
                    raise ValueError(
                        f"the model must give finite numbers, got NaN or infinity in {name}; use other weights, or "
                        "export the model again."
                    )
            item["probabilities"] = {
                name.removeprefix("cls_"): logits.float().softmax(0)
                for name, logits in outputs.items()
                if name.startswith("cls_")
            }
            # MONAI's Invertd looks for the history of the image only where the prediction is a MetaTensor
            item[key] = MetaTensor(outputs["seg"].float().softmax(0))
        return item


class KeepProbabilitiesd(MapTransform):
    """Adds ``probability_maps``: the probabilities on the image's native grid, (C, H, W) float32 in [0, 1].

    The way back is :class:`ToLabelMapd`'s, a bilinear interpolation, so that the label map is their most probable
    structure, up to the rounding of float32. MONAI's ``Invertd`` would replace what ``ToLabelMapd`` needs.

    Args:
        keys: probabilities (C, S, S).
        transform: what was applied to the image, a ``Compose``.
        enabled: false adds nothing.
        orig_keys: the image.

    Raises:
        ValueError: when ``enabled`` is neither true nor false, or see :class:`ToLabelMapd`.
    """

    def __init__(
        self, keys: KeysCollection, transform: Compose, *, enabled: bool | str, orig_keys: str = "image"
    ) -> None:
        super().__init__(keys)
        self.letterbox, self.enabled, self.orig_keys = (
            _letterbox(transform),
            switch(enabled, "probabilities"),
            orig_keys,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its ``probability_maps``, on the CPU."""
        item = dict(data)
        for key in self.key_iterator(item) if self.enabled else ():
            shape, _ = self.letterbox.native(item[self.orig_keys])
            rows, columns = place_in_square(shape, self.letterbox.side)
            inside = torch.as_tensor(item[key]).as_subclass(torch.Tensor)[None, :, rows, columns]
            item["probability_maps"] = F.interpolate(inside, shape, mode="bilinear")[0].cpu()
        return item


class ToLabelMapd(Invertd):
    """Takes probabilities (C, S, S) back to the image's native grid and names the most probable structure there.

    ``pred`` becomes a MetaTensor (1, H, W) uint8 of structure indices, on the CPU as masks are; of equals the first.
    What is taken back is by how much a structure is more probable than the background, and no further than it can be.
    With ``guidance`` it says what the user said, to the pixel (``hold_to_guidance``).
    MONAI Label looks for an ``Invertd``. MONAI's own takes all probabilities back everywhere, after a copy of the whole
    history, and its ``AsDiscrete`` then takes ``torch.argmax`` over the first axis: twenty times as long together.

    Args:
        keys: probabilities.
        transform: what was applied to the image, a ``Compose``.
        orig_keys: the image.

    Raises:
        ValueError: when ``transform`` moves pixels by other means than one ``Letterboxd``.
    """

    def __init__(self, keys: KeysCollection, transform: Compose, orig_keys: str = "image") -> None:
        super().__init__(keys, transform, orig_keys, nearest_interp=False)
        self.letterbox = _letterbox(transform)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the label map in place of the probabilities."""
        item = dict(data)
        for key, orig_key in self.key_iterator(item, self.orig_keys):
            probabilities = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            image = item[orig_key]
            shape, affine = self.letterbox.native(image)
            rows, columns = place_in_square(shape, self.letterbox.side)
            margins = (probabilities[1:] - probabilities[0])[:, rows, columns]
            indices = torch.zeros(shape, dtype=torch.uint8, device=margins.device)
            highest = torch.zeros(shape, device=margins.device)
            for place in (margins.amax((1, 2)) > 0).nonzero()[:, 0].tolist():
                window, margin = stretch_positive(margins[place], shape)
                wins = (margin > highest[window]).to(torch.uint8)
                # structures ascend, so the last to win is kept
                indices[window] = torch.maximum(indices[window], wins.mul_(place + 1))
                highest[window] = torch.maximum(highest[window], margin)
            indices = indices.cpu()
            if item.get("guidance"):
                seen = probabilities[1:, rows, columns].float().cpu().numpy()
                hold_to_guidance(indices.numpy(), item["guidance"], seen)
            item[key] = MetaTensor(indices[None]).copy_meta_from(image, keys=["meta"])
            item[key].affine = affine
        return item


def _letterbox(transform: Compose) -> Letterboxd:
    """The one step that moves pixels.

    Raises:
        ValueError: when there is another one, or none.
    """
    moving = [t for t in transform.flatten().transforms if isinstance(t, InvertibleTransform)]
    letterboxes = [t for t in moving if isinstance(t, Letterboxd)]
    if len(moving) != 1 or not letterboxes:
        raise ValueError(
            "transform must hold one Letterboxd and no other transform to be undone, got"
            f" {[type(t).__name__ for t in moving]}; change the transforms before the network."
        )
    return letterboxes[0]


class DescribePredictiond(Transform):
    """Adds ``result``: what was found in the image, as plain values that go into a JSON.

    ``prompts``, ``spacing_mm`` (row and column), ``areas`` (structure -> pixels, and mm2 where the spacing is known),
    ``classes`` (label set -> the most probable class and all probabilities) of the label set that the position prompt
    names: all without a prompt, none where an organ has no label set; ``notes``, see ``items.add_note``, also on a box
    that holds nothing of its structure. With clicks also ``clicks`` (structure -> number of clicks that counted).

    ``prediction`` lists the classes of the position's label set once more in the form that MONAI Label's clients read.
    They take its first entry or its highest score for the finding, so without a position no class of any organ is in
    it: its one entry then is ``position unknown`` with score 0.

    Probabilities instead of a label map are passed over: MONAI Label's scoring leaves out the step that makes the map.

    Args:
        structures: names of the label map's values, background first.
        label_sets: class heads, name -> class names.
    """

    def __init__(self, structures: Sequence[str], label_sets: Mapping[str, Sequence[str]]) -> None:
        self.structures = list(structures)
        self.label_sets = dict(label_sets)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``result``."""
        item = dict(data)
        if item["pred"].dtype != torch.uint8:
            return item
        spacing = [float(s) for s in item["spacing"]]
        known = all(math.isfinite(s) for s in spacing)
        counts = torch.bincount(item["pred"].as_tensor().flatten(), minlength=len(self.structures)).tolist()
        prompts = {name: item.get(name) or UNKNOWN for name in PROMPTS_USED}
        for note in self._guidance_notes(item, counts):
            add_note(item["image"], note)
        classes = self._classes(item["probabilities"], prompts["position"])
        item["result"] = {
            "prompts": prompts,
            "spacing_mm": {"row": spacing[0] if known else None, "column": spacing[1] if known else None},
            "areas": {
                name: {"pixels": n, "mm2": round(n * spacing[0] * spacing[1], 4) if known else None}
                for name, n in zip(self.structures[1:], counts[1:], strict=True)
            },
            "classes": classes,
            "notes": getattr(item.get("image"), "meta", {}).get("notes", ""),
        }
        if item.get("clicks"):
            item["result"]["clicks"] = {self._slot(slot): clicks for slot, clicks in item["clicks"].items()}
        item["result"]["prediction"] = self._prediction(classes, prompts["position"])
        return item

    def _slot(self, slot: int) -> str:
        return self.structures[slot] if slot != UNNAMED else "unnamed"

    def _guidance_notes(self, item: Mapping[str, Any], counts: Sequence[int]) -> Iterator[str]:
        """What of the user's guidance was not followed, or found nothing; ``counts``: pixels of each structure."""
        yield from item.get("guidance_notes") or ()
        guidance = item.get("guidance") or {}
        for slot, said in guidance.items():
            asked, counted = len(said["wanted"]), item["clicks"][slot]["wanted"]
            if counted < asked:
                yield f"{self._slot(slot)}: {asked - counted} of {asked} clicks lie outside the image or the box"
            # who names no structure gets one that no other guidance names
            found = counts[slot] if slot != UNNAMED else sum(n for i, n in enumerate(counts) if i and i not in guidance)
            if said["box"] is not None and not found:
                yield f"{self._slot(slot)}: nothing was found in the box"

    @staticmethod
    def _prediction(classes: Mapping[str, Any], position: str) -> list[dict[str, Any]]:
        if position in NO_POSITION:
            return [{"idx": 0, "label": "position unknown", "score": 0.0}]
        return [
            {"idx": i, "label": f"{label_set}: {name}", "score": score}
            for label_set, found in classes.items()
            for i, (name, score) in enumerate(found["probabilities"].items())
        ]

    def _classes(self, probabilities: Mapping[str, Any], position: str) -> dict[str, Any]:
        asked = self.label_sets if position in NO_POSITION else {position} & set(self.label_sets)
        found = {}
        for name in asked:
            values = [round(float(p), 6) for p in probabilities[name]]
            best = self.label_sets[name][max(range(len(values)), key=values.__getitem__)]
            found[name] = {"predicted": best, "probabilities": dict(zip(self.label_sets[name], values, strict=True))}
        return found


class ToStudyd(Transform):
    """Turns a label map (1, H, W) into the study's own index order: (W, H), or (W, H, 1) for NIfTI, NRRD and MetaImage.

    MONAI Label writes a geometry with three axes alone. It compares a result with ``spatial_shape`` of the image,
    which becomes the result's, and takes the geometry of what it writes from the result's affine. A JPEG study's result
    is asked for as PNG, for JPEG would blur it.
    Probabilities are passed over, see :class:`DescribePredictiond`. MONAI's own writers want the axes of its readers.

    Raises:
        ValueError: in the call, when MONAI Label asks for a file that was turned upright when it was read (JPEG
            orientation): clients show such a file unturned. The file is named.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``pred`` as (W, H) or (W, H, 1) uint8."""
        item = dict(data)
        if item["pred"].dtype != torch.uint8:
            return item
        meta = item["image"].meta
        if meta["turned"] and "image_path" in item:  # the key of MONAI Label's requests
            raise ValueError(
                f"{meta['filename_or_obj']}: image must be stored upright, got one with a JPEG orientation mark, which"
                " clients ignore; save it turned."
            )
        suffix = str(item.get("result_extension") or meta["filename_or_obj"]).lower()
        shape = (*item["pred"].shape[:0:-1], 1)[: 3 if suffix.endswith(VOLUME_SUFFIXES) else 2]
        study = item["pred"].as_tensor()[0].T.contiguous().reshape(shape)
        item["pred"] = MetaTensor(study, affine=meta["study_affine"])
        item["image"].meta["spatial_shape"] = shape
        if not item.get("result_extension") and str(meta["filename_or_obj"]).lower().endswith(LOSSY_SUFFIXES):
            item["result_extension"] = ".png"
        return item
