# SPDX-License-Identifier: Apache-2.0
"""Every kind of object of every real file is valid by dciodvfy (dicom3tools)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bundle.derived import Case, Identity, Shot, read_header
from bundle.derived.capture import capture
from tests.derived.conftest import STRUCTURES, WEIGHTS, result
from tests.derived.test_identity import OBJECTS

Cases = Callable[..., Case]
Problems = Callable[[bytes | None], list[str]]
FILES = (
    "itkpocus_sonoque_anechoic-3mm-3mm", "pydicom_examples_jpeg2k", "pydicom_examples_palette",
    "pydicom_examples_rgb_color", "pydicom_examples_ybr_color", "pydicomdata_JPGLosslessP14SV1_1s_1f_8b",
    "pydicomdata_OBXXXX1A_expb", "pydicomdata_OBXXXX1A_rle", "pydicomdata_US1_UNCI", "pydicomdata_color-pl",
    "pydicomdata_gdcm-US-ALOKA-16_big",
)  # fmt: skip


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("keep", [False, True])
def test_objects_of_a_made_image(case: Cases, problems: Problems, kind: str, keep: bool) -> None:
    assert problems(OBJECTS[kind](case(keep=keep))) == []


@pytest.mark.parametrize("keep", [False, True], ids=["anonymous", "kept"])
@pytest.mark.parametrize("name", FILES)
def test_objects_of_real_files(real_data: Path, problems: Problems, name: str, keep: bool) -> None:
    header = read_header(real_data / "dicom" / f"{name}.dcm")
    assert header is not None
    height, width = int(header.Rows), int(header.Columns)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    mask[: height // 8, : width // 8] = 2
    frames: tuple[int | None, ...] = (0, 10) if int(header.get("NumberOfFrames") or 1) > 1 else (None,)
    shots = [Shot(frame, mask, result(mask)) for frame in frames]
    one = Case(header, name, shots, STRUCTURES, WEIGHTS, 0, Identity(keep))
    made = {kind: OBJECTS[kind](one) for kind in ("seg", "sr", "gsps")}
    made["sc"] = capture(replace(one, shots=shots[:1]), np.zeros((height, width, 3), np.uint8))
    for kind, content in made.items():
        found = problems(content)
        if keep and name == "pydicomdata_color-pl":  # its own UIDs begin with 999, and references must be equal
            found = [problem for problem in found if "Illegal root for UID" not in problem]
        assert found == [], kind


def test_a_name_that_the_table_does_not_have(case: Cases, problems: Problems) -> None:
    names = ("background", "lesion", "a structure with a name of more than sixteen letters")
    one = case()
    assert problems(OBJECTS["seg"](replace(one, structures=names))) == []
