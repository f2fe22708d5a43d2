# SPDX-License-Identifier: Apache-2.0
"""Restored images as files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bundle import __version__
from bundle.sinks.png import encode_png
from bundle.sinks.sink import Findings, Sink, Study
from bundle.tasks import Task
from bundle.tasks.restoration import Restoration, restored


class Restored(Sink):
    """The image without what degrades it, at its own size: ``NAME_restored.png``, with a comment that says so.

    Args:
        tasks: the declared tasks.

    Raises:
        ValueError: when the weights do not restore.
    """

    ending = "_restored.png"

    def __init__(self, tasks: Sequence[Task]) -> None:
        found = [task.name for task in tasks if isinstance(task, Restoration)]
        if not found:
            raise ValueError(
                f"--task restore expects weights that restore, got weights of {[task.name for task in tasks]}; name "
                "others with --ckpt_path (docs/restoration.md)."
            )
        self.name = found[0]

    def image(self, study: Study, findings: Findings) -> bytes | None:
        """The file's content; None where the image is no ultrasound."""
        correction = study.item["found"].get(self.name)
        if correction is None:
            return None
        picture = restored(study.item["picture"].astype(np.float32) / 255, correction)
        pixels = np.rint(picture * 255).astype(np.uint8)
        comment = f"Altered: restored by a network (ultrasound-uperconvnext {__version__}); not what the scanner made."
        return encode_png(pixels[..., 0] if pixels.shape[2] == 1 else pixels, comment=comment)
