# SPDX-License-Identifier: Apache-2.0
"""DICOM objects of what was found in a DICOM image: segmentation, report, secondary capture, presentation state."""

from bundle.derived.case import Case, Shot
from bundle.derived.identity import Identity, read_header

__all__ = ["Case", "Identity", "Shot", "read_header"]
