# SPDX-License-Identifier: Apache-2.0
"""Images without what a patient could be known by: headers after PS3.15, and pixels without burnt-in text."""

from bundle.identity.folder import deidentify_folder
from bundle.identity.header import Removed, deidentify_header

__all__ = ["Removed", "deidentify_folder", "deidentify_header"]
