# SPDX-License-Identifier: Apache-2.0
"""Files: suffixes of images, hashes, the one atomic write, and the one check that nothing of others is replaced."""

from bundle.files.output_folder import LEDGER, OutputFolder
from bundle.files.suffixes import (
    CLIP_SUFFIXES,
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    METAIMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    NRRD_SUFFIXES,
    PICTURE_SUFFIXES,
    RESULT_SUFFIXES,
)
from bundle.files.writing import sha256, whole_file, writable_folder

__all__ = [
    "CLIP_SUFFIXES",
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "LEDGER",
    "METAIMAGE_SUFFIXES",
    "NIFTI_SUFFIXES",
    "NRRD_SUFFIXES",
    "PICTURE_SUFFIXES",
    "RESULT_SUFFIXES",
    "OutputFolder",
    "sha256",
    "whole_file",
    "writable_folder",
]
