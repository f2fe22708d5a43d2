# SPDX-License-Identifier: Apache-2.0
"""Coded concepts of what the bundle finds and measures: one table, for DICOM objects and whoever else wants codes."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """A coded concept, as DICOM writes it (PS3.3, section 8)."""

    value: str
    scheme: str
    meaning: str


PRIVATE = "99UPERCONVNEXT"
"""Coding scheme of names that the table does not have: the code is the name."""

PRIVATE_NAME = "Names of structures, organs and classes of the weights of Ultrasound UPerConvNeXt"

CODES = {
    "lesion": Code("52988006", "SCT", "Lesion"),
    "head": Code("69536005", "SCT", "Head"),
    "nerve": Code("91728009", "SCT", "Nerve"),
    "vessel": Code("59820001", "SCT", "Blood Vessel"),
    "breast": Code("76752008", "SCT", "Breast"),
    "cardiac": Code("80891009", "SCT", "Heart"),
    "thyroid": Code("69748006", "SCT", "Thyroid"),
    "kidney": Code("64033007", "SCT", "Kidney"),
    "appendix": Code("66754008", "SCT", "Appendix"),
    "liver": Code("10200004", "SCT", "Liver"),
    "limb": Code("66019005", "SCT", "Limb structure"),
    "lung": Code("39607008", "SCT", "Lung"),
    "gallbladder": Code("28231008", "SCT", "Gallbladder"),
    "normal": Code("17621005", "SCT", "Normal"),
    "healthy": Code("17621005", "SCT", "Normal"),
    "benign": Code("30807003", "SCT", "Benign"),
    "malignant": Code("21594007", "SCT", "Malignant"),
    "pneumonia": Code("233604007", "SCT", "Pneumonia"),
    "covid-19": Code("840539006", "SCT", "COVID-19"),
    "biliary atresia": Code("77480004", "SCT", "Biliary atresia"),
}
"""Structures, organs and classes by their names in ``organs``: SNOMED CT."""

ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMICAL = Code("91723000", "SCT", "Anatomical Structure")

ABNORMAL_STRUCTURES = ("lesion",)
"""Structures that no healthy body has."""

LENGTH_CODES = {
    "long_axis": Code("103339001", "SCT", "Long axis"),
    "short_axis": Code("103340004", "SCT", "Short axis"),
    "circumference": Code("74551000", "SCT", "Circumference"),
    "width": Code("103355008", "SCT", "Width"),
    "height": Code("121207", "DCM", "Height"),
}
"""By the names of ``bundle.measures.LENGTHS``."""

HEAD_CODES = {
    "hc_mm": Code("11984-2", "LN", "Head Circumference"),
    "bpd_mm": Code("11820-8", "LN", "Biparietal Diameter"),
    "ofd_mm": Code("11851-3", "LN", "Occipital-Frontal Diameter"),
    "gestational_age_weeks": Code("18185-9", "LN", "Gestational Age"),
}
"""By the names of the record ``fetal_head``."""

AREA = Code("42798000", "SCT", "Area")
PROBABILITY = Code("122157", "DCM", "Probability")
IMPRESSION = Code("111023", "DCM", "Differential Diagnosis/Impression")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
ABSENT = Code("272519000", "SCT", "Absent")
ULTRASONOGRAPHY = Code("310169008", "SCT", "Ultrasonography")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")

MM = Code("mm", "UCUM", "mm")
MM2 = Code("mm2", "UCUM", "square millimeter")
WEEKS = Code("wk", "UCUM", "week")
NO_UNIT = Code("1", "UCUM", "no units")


def code_of(name: str) -> Code:
    """The code of a structure, an organ or a class; its own name in the private scheme where the table has none."""
    return CODES.get(name) or Code(name, PRIVATE, name[:64])


def category_of(structure: str) -> Code:
    """The category of a structure (PS3.16, CID 7150)."""
    return ABNORMAL if structure in ABNORMAL_STRUCTURES else ANATOMICAL
