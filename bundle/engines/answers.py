# SPDX-License-Identifier: Apache-2.0
"""What an exported model answers, held against what its file says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bundle.failures import one_line

Run = Callable[[Tensor, Tensor], Sequence[Tensor]]


def named_answers(
    run: Run, image: Tensor, prompt: Tensor, *, metadata: Mapping[str, Any], path: Path
) -> dict[str, Tensor]:
    """Logits by head, which must be as many and as wide as the file's metadata tells.

    Args:
        run: of a runtime.
        image: (B, C, H, W).
        prompt: (B, P).
        metadata: of :func:`bundle.described.described_export`.
        path: of the file, for messages.

    Raises:
        ValueError: when the model takes no such input, or gives other outputs.
    """
    names, heads = metadata["outputs"], metadata.get("network", {}).get("heads", {})
    try:
        found = list(run(image, prompt))
    except Exception as error:  # each runtime raises kinds of its own
        raise _unfit(path, f"inputs {list(image.shape)} and {list(prompt.shape)}", one_line(str(error))) from error
    told, got = [len(heads[name]) if name in heads else None for name in names], [out.shape[1] for out in found]
    if len(got) != len(names) or any(n not in (None, m) for n, m in zip(told, got, strict=True)):
        widths = dict(zip(names, told, strict=True))
        raise _unfit(path, f"outputs and widths {widths}", f"{len(got)} outputs of widths {got}")
    return dict(zip(names, found, strict=True))


def _unfit(path: Path, told: str, got: str) -> ValueError:
    return ValueError(f"{path} must take and give what its metadata tells, {told}, got {got[:300]}; export it again.")
