# SPDX-License-Identifier: Apache-2.0
"""Shares groups of images among parts, such as train, val and test, so that the parts are alike.

Alike in patients, images, images of each class, images with a mask and images in groups of one, two, three and more:
of each set, and in patients and images over all sets. A part that is to get anything gets images of every class of
every set, where there are enough groups.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEVERAL = 4
"""Groups of so many images or more count as one size."""

_CANDIDATES = 32  # kinds of group in either part, the most promising, whose exchange is tried
_EXCHANGES = 200  # between two parts in a sweep: small sets need some ten, in large ones more change next to nothing
_SWEEPS = 10
_TRIALS = 4  # orders in which the groups left over are placed, of which the cheapest result counts
_GAIN = 1e-3  # least gain of an exchange, in units of chi-square
_SMALL = 1e-9  # hides the rounding of shares such as 0.1 * 3
_DIGITS = 6  # costs that are equal so far are equal, so that rounding decides nothing

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = tuple[tuple[tuple[str, ...], int], ...]
"""What a group holds: (set,) -> patients, (set, class, "masks" or "") -> images; in this order."""


def assign_groups(
    items: Sequence[Mapping[str, Any]],
    *,
    shares: Mapping[str, float],
    seed: int,
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The part of every group of images.

    Groups that hold the same are of one kind. Of each kind, every part first gets its share, rounded down. The groups
    left over go where they cost least, large ones first. Then groups move from part to part or change places as long
    as that lowers the cost, Pearson's chi-square: the sum over parts and strata of (number - expected)^2 / expected.
    Strata of fewer groups than parts do not count. A class that a part lacks costs more than all else.

    Args:
        items: items with ``group``, ``patient``, ``dataset`` and perhaps ``class`` and ``label``, in any order.
        shares: part -> wanted share, taken relative to their sum; a part with 0 stays empty.
        seed: another seed gives another split.
        fixed: group -> part, for groups that are placed already.
    """
    fixed = fixed or {}
    members: defaultdict[Kind, list[str]] = defaultdict(list)
    for group, kind in _kinds(items).items():
        members[kind].append(group)
    kinds = sorted(members, key=lambda kind: (-_size(kind), _digest(repr(kind), seed)))
    parts = [part for part, share in shares.items() if share > 0]
    balance = _Balance(kinds, wanted=np.array([shares[part] for part in parts]) / sum(shares.values()))
    placed: dict[str, str] = {}
    for index, kind in enumerate(kinds):
        for group in members[kind]:
            if group in fixed:
                placed[group] = fixed[group]
                if fixed[group] in parts:
                    balance.held[parts.index(fixed[group])] += balance.holds[index]
    free = [sorted((g for g in members[kind] if g not in placed), key=lambda g: _digest(g, seed)) for kind in kinds]
    counts = balance.share_out([len(groups) for groups in free])
    for groups, numbers in zip(free, counts.tolist(), strict=True):
        of_groups = np.repeat(parts, numbers).tolist()
        placed.update(zip(groups, of_groups, strict=True))
    return placed


def strata(kind: Kind) -> Counter[tuple[str, ...]]:
    """Stratum -> how much of it a group of this kind holds; the strata of all sets together begin with ''."""
    counts: Counter[tuple[str, ...]] = Counter()
    size = min(_size(kind), SEVERAL)
    for (dataset, *rest), number in kind:
        names: list[tuple[str, ...]] = [("", "patients"), (dataset, "patients")]
        if rest:
            names = [("", "images"), (dataset, "images"), (dataset, "size", str(size))]
            names += [(dataset, "class", rest[0])] if rest[0] else []
            names += [(dataset, "masks")] if rest[1] else []
            names += [(dataset, "several")] if size > 1 else []
        for name in names:
            counts[name] += number
    return counts


class _Balance:
    """What the parts hold of each stratum, and what that costs.

    Args:
        kinds: C kinds of groups, in the order in which they are placed.
        wanted: (P,) wanted shares of the parts, which add up to 1.
    """

    def __init__(self, kinds: Sequence[Kind], *, wanted: Floats) -> None:
        each = [strata(kind) for kind in kinds]
        names = sorted({name for counts in each for name in counts})
        place = {name: index for index, name in enumerate(names)}
        self.holds = np.zeros((len(kinds), len(names)), dtype=np.int64)
        for row, counts in zip(self.holds, each, strict=True):
            row[[place[name] for name in counts]] = list(counts.values())
        # Of each kind the stratum by whose shares its groups are dealt: the images of its set.
        self.images = np.array([place[kind[-1][0][0], "images"] for kind in kinds], dtype=np.int64)
        self.needed = np.array([name == ("", "images") or "class" in name[1:2] for name in names])
        self.counted = np.array([name[0] == "" for name in names])
        self.wanted, self.parts = wanted, np.arange(len(wanted))
        self.held = np.zeros((len(wanted), len(names)), dtype=np.int64)
        self.total = np.zeros(len(names), dtype=np.int64)

    def cost(self, part: int | Integers, held: Integers) -> Floats:
        """Cost (...,) of a part that holds so much of the strata (..., S)."""
        wanted = self.wanted[part]
        expected = self.total * wanted[..., None]
        unlike = ((held - expected) ** 2 / expected * self.counted).sum(axis=-1)
        absent = ((held == 0) & self.needed).sum(axis=-1)
        return np.asarray(unlike + absent * (1 + wanted) * self.total.sum() / self.wanted.min())

    def share_out(self, numbers: Sequence[int]) -> Integers:
        """How many groups of each kind each part gets, (C, P), when there are so many groups of the kinds (C,)."""
        free = np.array(numbers, dtype=np.int64)
        self.total = np.maximum(self.held.sum(axis=0) + (free[:, None] * self.holds).sum(axis=0), 1)
        groups = (free[:, None] * (self.holds > 0)).sum(axis=0)
        self.counted |= groups >= len(self.parts)  # what fewer groups hold cannot be alike in all parts
        lacking = np.maximum(self.wanted * self.total[self.images, None] - self.held.T[self.images], 0) + _SMALL
        counts: Integers = np.floor(free[:, None] * lacking / lacking.sum(axis=1, keepdims=True) + _SMALL).astype(
            np.int64
        )
        for part in self.parts:
            self.held[part] += (counts[:, part, None] * self.holds).sum(axis=0)
        rest = np.repeat(np.arange(len(free)), free - counts.sum(axis=1))  # large ones first
        rng, dealt = np.random.default_rng(0), self.held.copy()
        trials = []
        for trial in range(_TRIALS):
            self.held = dealt.copy()
            placed = self._place(rng.permutation(rest) if trial else rest, counts.copy())
            trials.append((float(self.cost(self.parts, self.held).sum().round(_DIGITS)), trial, placed))
        return min(trials, key=lambda entry: entry[:2])[2]

    def _place(self, rest: Integers, counts: Integers) -> Integers:
        """Place groups of these kinds where they cost least, then exchange; ``counts`` is changed in place."""
        for kind in rest.tolist():
            change = self.cost(self.parts, self.held + self.holds[kind]) - self.cost(self.parts, self.held)
            cheapest = change.round(_DIGITS).argmin()
            counts[kind, cheapest] += 1
            self.held[cheapest] += self.holds[kind]
        for _ in range(_SWEEPS):
            if not sum(self._exchange(counts, *pair) for pair in combinations(self.parts.tolist(), 2)):
                break
        return counts

    def _exchange(self, counts: Integers, one: int, other: int) -> int:
        """Exchange groups of two parts, or move one, while that pays, in place of ``counts``; returns how often."""
        for done in range(_EXCHANGES):
            given, taken = self._candidates(counts, one, other), self._candidates(counts, other, one)
            holds = np.concatenate([self.holds, np.zeros_like(self.holds[:1])])  # at -1: nothing is given
            change = holds[taken][None] - holds[given][:, None]  # (given, taken, S)
            costs = self.cost(one, self.held[one] + change) + self.cost(other, self.held[other] - change)
            costs = costs.round(_DIGITS)
            if costs.min() > self.cost(one, self.held[one]) + self.cost(other, self.held[other]) - _GAIN:
                return done
            give, take = np.unravel_index(costs.argmin(), costs.shape)
            self.held[one] += change[give, take]
            self.held[other] -= change[give, take]
            for kind, sign in ((given[give], 1), (taken[take], -1)):
                if kind >= 0:
                    counts[kind, one] -= sign
                    counts[kind, other] += sign
        return _EXCHANGES

    def _candidates(self, counts: Integers, giver: int, taker: int) -> Integers:
        """The kinds of group that are best moved from one part to another, and -1 for none."""
        kinds = np.flatnonzero(counts[:, giver])
        costs = self.cost(giver, self.held[giver] - self.holds[kinds])
        costs += self.cost(taker, self.held[taker] + self.holds[kinds])
        return np.append(kinds[np.argsort(costs.round(_DIGITS), kind="stable")[:_CANDIDATES]], -1)


def _kinds(items: Sequence[Mapping[str, Any]]) -> dict[str, Kind]:
    """What every group holds."""
    holds: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    seen = set()
    for item in items:
        group, dataset = item["group"], item["dataset"]
        holds[group][dataset, item.get("class", ""), "masks" if "label" in item else ""] += 1
        if (group, item["patient"]) not in seen:
            seen.add((group, item["patient"]))
            holds[group][(dataset,)] += 1
    return {group: tuple(sorted(held.items())) for group, held in holds.items()}


def _size(kind: Kind) -> int:
    return sum(number for name, number in kind if len(name) > 1)


def _digest(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode(errors="surrogateescape")).hexdigest()
