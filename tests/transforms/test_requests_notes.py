# SPDX-License-Identifier: Apache-2.0
"""What is said about guidance and positions of which the network knows nothing."""

from typing import Any

import pytest

from bundle.transforms import ReadRequestd
from bundle.vocabulary import Organs

STRUCTURES = ["background", "Lesion", "nerve"]
ORGANS = Organs(
    {
        "breast": {"structures": ["lesion"]},
        "liver": {"classes": ["healthy", "fatty"]},
        "heart": {},
        "thyroid": {},
        "indis": {},
    }
)


@pytest.mark.parametrize(
    ("request_", "noted"),
    [
        ({"position": "thyroid"}, True),
        ({"position": ["thyroid", "breast"]}, True),
        ({"position": "thyroid", "background": [[1, 2]]}, True),
        ({"position": "thyroid", "lesion": [[1, 2]]}, False),
        ({"position": "thyroid", "box": [1, 2, 3, 4]}, False),
        ({"position": "breast"}, False),
        ({"position": "liver"}, False),
        ({"position": "heart"}, False),
        ({"position": "indis"}, False),
        ({"position": "unknown"}, False),
        ({}, False),
    ],
)
def test_a_position_without_an_answer_is_noted(request_: dict[str, Any], noted: bool) -> None:
    read = ReadRequestd(ORGANS.structures, organs=ORGANS, organ_points={"heart": ["apex"]})
    notes = read({"image": "a.png", **request_})["guidance_notes"]
    assert len(notes) == noted
    assert all(note.startswith("position: ['thyroid'] have neither structures nor classes") for note in notes)


@pytest.mark.parametrize(
    ("request_", "notes"),
    [
        ({"lesion": [[1, 2]], "label": "lesion"}, []),
        ({"box": [1, 2, 3, 4], "label": "liver"}, ["'liver' is no structure of this model: what belongs to it"]),
        ({"foreground": [[1, 2]], "label": "liver"}, ["'liver' is no structure of this model: what belongs to it"]),
        ({"liver": [[1, 2, 0]], "nerve": [[3, 4]]}, ["'liver' is no structure of this model: its clicks are not used"]),
        ({"foreground": [[1, 2]], "label": "background"}, []),
        ({"box": [1, 2, 3, 4], "label": "background"}, ["'background' is no structure of this model: what belongs"]),
        ({"clicks": [[1, 2]], "lesion": [[1, 2]]}, ["'clicks' is no guidance that this model takes: it is not used"]),
        ({"bbox": [1, 2, 3, 4], "points": [[1, 2]]}, ["'bbox' is no guidance", "'points' is no guidance"]),
        ({"points": {"apex": [1, 2]}, "clicks": {"lesion": 3}}, []),  # of a data list, of an answer
        ({"Scribbles": "abc", "points": [], "masks": None, "clicks": {}}, ["'Scribbles' is no guidance"]),
        ({"affine": [[1.0, 0.0, 0.0, 0.0]], "names": ["a"], "label": "", "liver": []}, []),
    ],
)
def test_guidance_for_structures_that_the_model_has_not_is_noted(request_: dict[str, Any], notes: list[str]) -> None:
    found = ReadRequestd(STRUCTURES)({"image": "a.png", **request_})["guidance_notes"]
    assert len(found) == len(notes)
    assert all(note.startswith(expected) for note, expected in zip(found, notes, strict=True))
