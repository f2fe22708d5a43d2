# SPDX-License-Identifier: Apache-2.0
"""Objects name the patient when they are asked to, and never else."""

from collections.abc import Callable

import numpy as np
import pytest
from pydicom.dataset import Dataset

from bundle.derived import Case, Identity
from bundle.derived.capture import capture
from bundle.derived.identity import IDENTIFYING
from bundle.derived.presentation import presentation
from bundle.derived.report import report
from bundle.derived.segmentation import segmentation
from tests.derived.conftest import PLANTED

Cases = Callable[..., Case]
Loaded = Callable[[bytes | None], Dataset]
OBJECTS: dict[str, Callable[[Case], bytes | None]] = {
    "seg": segmentation,
    "sr": report,
    "gsps": presentation,
    "sc": lambda case: capture(case, np.zeros((40, 56, 3), np.uint8)),
}


def leaks(content: bytes) -> list[str]:
    """Planted values, and parts of names, that stand in a file."""
    words = [word for keyword, value in PLANTED.items() if keyword != "PatientSex" for word in value.split("^")]
    return [word for word in words if word.encode() in content]


@pytest.mark.parametrize("kind", OBJECTS)
def test_nothing_of_the_patient_is_in_an_object(case: Cases, loaded: Loaded, kind: str) -> None:
    content = OBJECTS[kind](case())
    assert content is not None
    assert leaks(content) == []
    made = loaded(content)
    assert made.PatientIdentityRemoved == "YES"
    assert made.PatientID.startswith("ANON")
    assert {made.get(keyword) or "" for keyword in IDENTIFYING if keyword not in ("PatientName", "PatientID")} == {""}


@pytest.mark.parametrize("kind", OBJECTS)
def test_keep_identity_leads_back_to_the_study(case: Cases, loaded: Loaded, kind: str) -> None:
    content = OBJECTS[kind](case(keep=True))
    made = loaded(content)
    assert {keyword: str(made[keyword].value) for keyword in IDENTIFYING} == {key: PLANTED[key] for key in IDENTIFYING}
    assert made.StudyInstanceUID == PLANTED["StudyInstanceUID"]
    assert PLANTED["SOPInstanceUID"].encode() in (content or b"")
    assert made.SeriesInstanceUID != PLANTED["SeriesInstanceUID"]
    assert "PatientIdentityRemoved" not in made
    assert set(leaks(content or b"")).isdisjoint({"Schallkopf", "Klinik Irgendwo", "US-ROOM-17", "Secret study 8812"})


def test_an_object_leaves_no_name_for_the_next_one(case: Cases) -> None:
    one = case(keep=True)
    assert segmentation(one) is not None
    assert one.source.PatientName == ""


def test_names_in_other_letters_are_kept(case: Cases, loaded: Loaded) -> None:
    made = loaded(segmentation(case(keep=True, SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎")))
    assert str(made.PatientName) == "山田^太郎"


def test_objects_of_one_run_share_study_and_patient_and_runs_share_nothing(case: Cases, loaded: Loaded) -> None:
    run, other = Identity(), Identity()
    one = loaded(segmentation(case(identity=run)))
    same_study = loaded(report(case(identity=run, SOPInstanceUID="1.2.840.999.1.5")))
    same_patient = loaded(report(case(identity=run, StudyInstanceUID="1.2.840.999.1.6")))
    stranger = loaded(report(case(identity=run, PatientID="another", StudyInstanceUID="1.2.840.999.1.7")))
    later = loaded(segmentation(case(identity=other)))
    assert one.StudyInstanceUID == same_study.StudyInstanceUID != same_patient.StudyInstanceUID
    assert one.PatientID == same_patient.PatientID != stranger.PatientID
    assert (one.StudyInstanceUID, one.PatientID) != (later.StudyInstanceUID, later.PatientID)
    assert one.SOPInstanceUID != later.SOPInstanceUID


@pytest.mark.parametrize(
    ("keyword", "stored", "written"),
    [
        ("StudyDate", "1994.11.05", "19941105"),
        ("StudyTime", "11:20:00", "112000"),
        ("StudyDate", "yesterday", ""),
        ("PatientSex", "Male", ""),
        ("PatientSex", "O", "O"),
    ],
)
def test_values_are_written_as_the_standard_asks(
    case: Cases, loaded: Loaded, keyword: str, stored: str, written: str
) -> None:
    made = loaded(segmentation(case(keep=True, **{keyword: stored})))
    assert str(made.get(keyword) or "") == written


@pytest.mark.parametrize("uid", [None, "", "1.2.x", "1." + "2" * 70])
def test_a_source_without_a_valid_study_gets_one(case: Cases, loaded: Loaded, uid: str | None) -> None:
    run = Identity(keep=True)
    one, two = (loaded(make(case(identity=run, StudyInstanceUID=uid))) for make in (segmentation, report))
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.StudyInstanceUID.is_valid


def test_keep_identity_is_true_or_false() -> None:
    assert Identity("true").keep
    with pytest.raises(ValueError, match="keep_identity must be true or false, got 'yes'; correct --keep_identity"):
        Identity("yes")
