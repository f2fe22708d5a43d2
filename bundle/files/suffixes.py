# SPDX-License-Identifier: Apache-2.0
"""Suffixes of the files that are read and written, in lower case."""

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
CLIP_SUFFIXES = (".mp4", ".mov", ".avi", ".mpeg", ".mpg", ".mkv", ".wmv", ".m4v", ".webm")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2")
IMAGE_SUFFIXES = PICTURE_SUFFIXES + NIFTI_SUFFIXES + NRRD_SUFFIXES + METAIMAGE_SUFFIXES + DICOM_SUFFIXES
"""What the readers take, in lower case; DICOM also without a suffix."""
RESULT_SUFFIXES = (".png", ".tif", ".bmp", *NIFTI_SUFFIXES, ".nrrd", ".seg.nrrd", ".mha")  # lossless, of one part
