# SPDX-License-Identifier: Apache-2.0
"""A label map in the form of the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from bundle.files import METAIMAGE_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES

LOSSY_SUFFIXES = (".jpg", ".jpeg")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + NRRD_SUFFIXES + METAIMAGE_SUFFIXES


class ToStudyd(Transform):
    """Turns a label map (1, H, W) into the study's own index order: (W, H), or (W, H, 1) for NIfTI, NRRD and MetaImage.

    MONAI Label writes a geometry with three axes alone. It compares a result with ``spatial_shape`` of the image,
    which becomes the result's, and takes the geometry of what it writes from the result's affine. A JPEG study's result
    is asked for as PNG, for JPEG would blur it.
    Probabilities are passed over, as MONAI Label's scoring leaves them. MONAI's writers want the axes of its readers.

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
