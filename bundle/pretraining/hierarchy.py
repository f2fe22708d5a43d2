# SPDX-License-Identifier: Apache-2.0
"""Organs in a tree: an encoder learns to tell which region, and which organ of it, an image shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bundle.pretraining.distillation import Encode

Tree = Mapping[str, Any]
"""Name -> what it divides into, or nothing: ``{"ultrasound": {"fetus": {"head": {}}}, "none": {}}``."""


class OrganHierarchy(nn.Module):
    """Cross-entropy of the organ that an image is known to show, at each fork of the way to it through a tree.

    A linear layer on the encoder's feature vector scores all names of the tree; the softmax runs over the branches of
    one fork, so that the probability of an organ is the product of those on its way (Redmon and Farhadi 2017, YOLO9000,
    section 4, arXiv 1612.08242). EchoCare (2025, arXiv 2509.11752) adds a classifier over a tree of organs to masked
    pretraining; its loss is not this one to the letter. Images of which no organ is known add nothing.

    Args:
        channels: of the encoder's maps; the last one is the length of its feature vector.
        tree: of organs; names are unique.

    Raises:
        ValueError: when a name stands twice, or there is no fork.
    """

    reads_organs = True

    def __init__(self, channels: Sequence[int], tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        self.ways: dict[str, list[tuple[int, slice]]] = {}
        count = self._number(tree, first=0, way=[])
        if len(self.ways) < count or not any(self.ways.values()):
            raise ValueError(
                f"organ_tree must have a fork and each name once, got {dict(tree)!r}; correct or rename its branches."
            )
        self.scores = nn.Linear(channels[-1], count)

    def _number(self, tree: Tree, *, first: int, way: list[tuple[int, slice]]) -> int:
        """Gives each name its place and the forks on its way, and returns the next place."""
        fork, after = slice(first, first + len(tree)), first + len(tree)
        for place, (name, branches) in enumerate(tree.items(), start=first):
            self.ways[name] = [*way, (place, fork)] if len(tree) > 1 else way
            after = self._number(branches or {}, first=after, way=self.ways[name])
        return after

    def config(self) -> dict[str, Any]:
        """The tree."""
        return {"tree": self.tree}

    def forward(self, image: Tensor, encode: Encode, organs: Sequence[str]) -> Tensor:
        """Scalar loss: the mean, over images whose organ is in the tree, of minus the logarithm of its probability.

        Args:
            image: (B, 3, H, W) in [0, 1].
            encode: images -> maps and feature vector (B, C_4), of the encoder that learns.
            organs: of each image; one that is not in the tree is not known.
        """
        scores = self.scores(encode(image)[1]).float()
        pairs = zip(scores, organs, strict=True)
        known = [self.log_probability(row, organ) for row, organ in pairs if organ in self.ways]
        return -torch.stack(known).mean() if known else scores.sum() * 0

    def log_probability(self, scores: Tensor, organ: str) -> Tensor:
        """Logarithm of the probability of a name of the tree: scalar, of scores (N,)."""
        steps = [scores[fork].log_softmax(0)[place - fork.start] for place, fork in self.ways[organ]]
        return torch.stack(steps).sum() if steps else scores.sum() * 0


def known_organs(items: Sequence[Mapping[str, Any]], tree: Tree) -> Tree:
    """The tree, once an image is known to show an organ of it.

    Args:
        items: of :func:`bundle.pretraining.images.images_to_learn_from`.
        tree: of organs.

    Raises:
        ValueError: when no image is, as in a folder without a manifest.
    """
    names = OrganHierarchy([1], tree).ways
    if not any(item.get("organ") in names for item in items):
        told = sorted({item["organ"] for item in items if item.get("organ")})
        raise ValueError(
            f"organ_tree expects images of which an organ is known, of {sorted(names)}, got {told or 'none'}; learn "
            "from a folder with datalist.json whose data sets name their position, or add the organs to organ_tree."
        )
    return tree
