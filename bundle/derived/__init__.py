# SPDX-License-Identifier: Apache-2.0
"""DICOM objects of what was found in a DICOM image: segmentation, report, secondary capture, presentation state."""

from bundle.derived.capture import capture
from bundle.derived.case import Case, Shot
from bundle.derived.identity import Identity, read_header
from bundle.derived.presentation import presentation
from bundle.derived.report import report
from bundle.derived.segmentation import segmentation

__all__ = ["Case", "Identity", "Shot", "capture", "presentation", "read_header", "report", "segmentation"]
