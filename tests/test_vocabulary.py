# SPDX-License-Identifier: Apache-2.0
import re
from typing import Any

import pytest

from bundle.vocabulary import Organs, encode_prompt, prompt_length

DIAGNOSES = ["benign", "malignant"]
TABLE: dict[str, Any] = {
    "limb": {"structures": ["nerve", "vessel"]},
    "breast": {"structures": ["lesion"], "classes": DIAGNOSES},
    "indis": None,
    "thyroid": {"structures": ["nodule", "vessel"], "classes": DIAGNOSES, "label_set": "breast"},
    "lung": {"classes": ["healthy", "sick"], "label_set": "chest"},
}


def test_everything_derives_from_the_table_in_its_order() -> None:
    organs = Organs(TABLE)
    assert organs.positions == ["limb", "breast", "indis", "thyroid", "lung"]
    assert organs.structures == ["background", "nerve", "vessel", "lesion", "nodule"]
    assert organs.label_sets == {"breast": ["benign", "malignant"], "chest": ["healthy", "sick"]}
    assert organs.table["lung"] == {"structures": [], "classes": ["healthy", "sick"], "label_set": "chest"}
    assert organs.table["indis"] == {"structures": [], "classes": [], "label_set": ""}


def test_what_an_organ_shows_and_which_classes_it_has() -> None:
    organs = Organs(TABLE)
    assert {name: organs.shows(name) for name in organs.positions} == {
        "limb": [1, 2],
        "breast": [3],
        "indis": [1, 2, 3, 4],
        "thyroid": [2, 4],
        "lung": [],
    }
    assert organs.shows("unknown") == organs.shows("") == [1, 2, 3, 4]
    names = [*organs.positions, "unknown", ""]
    assert [organs.label_set(name) for name in names] == ["", "breast", "", "breast", "chest", "", ""]


def test_a_table_that_grows_at_its_end_keeps_every_index() -> None:
    before, after = Organs(TABLE), Organs({**TABLE, "spleen": {"structures": ["spleen"], "classes": ["a", "b"]}})
    assert after.positions == [*before.positions, "spleen"]
    assert after.structures == [*before.structures, "spleen"]
    assert after.label_sets == {**before.label_sets, "spleen": ["a", "b"]}


def test_what_is_derived_can_be_made_again() -> None:
    organs = Organs(TABLE)
    assert Organs(organs.table).table == organs.table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "organs must map names to what they show, got None; write {breast:"),
        ({}, "organs must map names to what they show, got {}"),
        ("breast", "organs must map names to what they show, got 'breast'"),
        (
            {"breast": {"structures": ["lesion"]}},
            "organs must hold 'indis', which stands for any organ, got ['breast']; add 'indis': {} to organs.",
        ),
        (
            {"breast": {"structures": "lesion"}},
            "as structures and classes, got 'breast': {'structures': 'lesion'}",
        ),
        ({"breast": {"structures": ["lesion", "lesion"]}}, "lists of different names as structures and classes, got"),
        ({"breast": {"structures": [1]}}, "lists of different names as structures and classes, got 'breast'"),
        ({"breast": ["lesion"]}, "lists of different names as structures and classes, got 'breast': ['lesion']"),
        ({"breast": {"shows": ["lesion"]}}, "lists of different names as structures and classes, got 'breast'"),
        (
            {"breast": {"structures": ["background"]}},
            "organs must not list the background, got it for 'breast'",
        ),
        ({"breast": {"classes": ["benign"]}}, "must have two or more, under a label set of letters, digits and"),
        (
            {"left breast": {"classes": DIAGNOSES}},
            "got 'left breast': ['benign', 'malignant'] as 'left breast'",
        ),
        (
            {**TABLE, "liver": {"classes": ["a", "b"], "label_set": "breast"}},
            "organs that share label_set 'breast' must have the same classes, got ['a', 'b'] for 'liver' and"
            " ['benign', 'malignant'] before; correct them.",
        ),
    ],
)
def test_another_table_is_refused(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Organs(table)


def test_a_prompt_is_the_codes_of_its_values() -> None:
    positions = Organs(TABLE).positions
    assert prompt_length(positions) == 5 + 2 + 3 + 2
    told = {"position": "breast", "task": "classification", "type": "local", "nature": "tumor"}
    assert encode_prompt(told, positions) == [0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0]
    assert encode_prompt({"position": "unknown"}, positions) == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"position must be one of \['limb', .*'unknown'\], got 'spleen'; correct it"):
        encode_prompt({"position": "spleen"}, positions)
