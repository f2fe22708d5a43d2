# SPDX-License-Identifier: Apache-2.0
"""Masks as files."""

from __future__ import annotations

from bundle.sinks.png import encode_png
from bundle.sinks.sink import Findings, Sink, Study


class Masks(Sink):
    """The label map: ``NAME_mask.png``, 8 bit, value = structure index, native size."""

    ending = "_mask.png"

    def image(self, study: Study, findings: Findings) -> bytes:
        """The file's content."""
        return encode_png(findings.mask)
