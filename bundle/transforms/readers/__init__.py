# SPDX-License-Identifier: Apache-2.0
"""Image files to upright arrays of rows and columns.

MONAI's readers stop short of palettes, YBR, 1-bit, 16-bit, window and region calibration, and differ in axis order.
"""

from bundle.transforms.readers.dicom import (
    complete_header,
    is_understood,
    lies_high,
    parse_dicom,
    settle_syntax,
    spare_bits,
)
from bundle.transforms.readers.dicom_bounds import check_frame, frame_streams
from bundle.transforms.readers.dicom_header import quiet_reading
from bundle.transforms.readers.dicom_stream import HEAD, is_ybr
from bundle.transforms.readers.dicom_values import dicom_frame, to_rgb
from bundle.transforms.readers.files import check_plain, image_digest, image_files, read_file
from bundle.transforms.readers.raw import LPS_TO_RAS, MAX_PIXELS, Raw, check_size

__all__ = [
    "HEAD",
    "LPS_TO_RAS",
    "MAX_PIXELS",
    "Raw",
    "check_frame",
    "check_plain",
    "check_size",
    "complete_header",
    "dicom_frame",
    "frame_streams",
    "image_digest",
    "image_files",
    "is_understood",
    "is_ybr",
    "lies_high",
    "parse_dicom",
    "quiet_reading",
    "read_file",
    "settle_syntax",
    "spare_bits",
    "to_rgb",
]
