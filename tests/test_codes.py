# SPDX-License-Identifier: Apache-2.0
import pytest
from monai.bundle import ConfigParser
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SrCode

from bundle import codes as table
from bundle.codes import ABNORMAL, ANATOMICAL, CODES, HEAD_CODES, LENGTH_CODES, PRIVATE, Code, category_of, code_of
from bundle.measures import LENGTHS
from tests.conftest import TRAIN

BEYOND = {"pneumonia": "233604007", "covid-19": "840539006", "biliary atresia": "77480004"}
"""SNOMED CT has them, the subset of DICOM's context groups has not."""

NAMED = {name: value for name, value in vars(table).items() if isinstance(value, Code)}


@pytest.mark.parametrize(
    "code",
    [
        *(CODES[name] for name in CODES if name not in BEYOND),
        *LENGTH_CODES.values(),
        *HEAD_CODES.values(),
        *NAMED.values(),
    ],
)
def test_codes_are_those_of_pydicoms_dictionary(code: Code) -> None:
    scheme = getattr(codes, code.scheme)
    known = {getattr(scheme, name).value: getattr(scheme, name) for name in scheme.dir()}
    assert code.value in known
    assert SrCode(*code) == known[code.value]


def test_codes_beyond_it() -> None:
    assert {name: CODES[name].value for name in BEYOND} == BEYOND


def test_every_name_of_the_shipped_organs_has_a_code() -> None:
    organs = ConfigParser.load_config_file(TRAIN)["organs"]
    names = {name for entry in organs.values() for key in ("structures", "classes") for name in entry.get(key, ())}
    assert {*organs, *names} - {"indis"} == set(CODES)
    assert set(LENGTH_CODES) == set(LENGTHS)


def test_other_names_are_codes_of_a_private_scheme() -> None:
    assert code_of("lesion") == ("52988006", "SCT", "Lesion")
    assert code_of("left ventricle") == ("left ventricle", PRIVATE, "left ventricle")
    assert (category_of("lesion"), category_of("nerve")) == (ABNORMAL, ANATOMICAL)
