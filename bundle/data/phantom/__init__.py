# SPDX-License-Identifier: Apache-2.0
"""Synthetic ultrasound: the embedded data set that the project trains on before it has any other."""

from bundle.data.phantom.store import datalist_path, is_phantom, synthesize

__all__ = ["datalist_path", "is_phantom", "synthesize"]
