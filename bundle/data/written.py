# SPDX-License-Identifier: Apache-2.0
"""Pictures that are written beside a manifest, under names that tell what they hold."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from bundle.files import OutputFolder

_HEX = 16  # digits of a name: two of a million pictures are alike with a chance of 1 in 40 million


def write_picture(output: OutputFolder, name: str, pixels: np.ndarray) -> str:
    """Writes ``NAME_HASH.png`` and gives its path without links; the hash is that of the file.

    Other content gets another name, so that a later run replaces no picture of an earlier manifest.

    Args:
        output: the folder.
        name: of the source, each one of a run.
        pixels: uint8 (H, W) or (H, W, 3) RGB.

    Raises:
        FileExistsError: when a file that no earlier run wrote would be replaced.
        OSError: when it cannot be written.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    content = file.getvalue()
    return str(output.write(f"{name}_{short_hash(content)}.png", content).resolve())


def short_hash(content: bytes) -> str:
    """The first digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:_HEX]
