# SPDX-License-Identifier: Apache-2.0
"""Plots of growth: double-logarithmic, with the slope of linear growth beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.growth_parts.isolated import Row

Line = Sequence[tuple[float, float]]


def draw(part: str, rows: Sequence[Row]) -> bytes:
    """The part's plot, a PNG file."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    {"manifest": _manifest, "inference": _inference, "size": _size, "processes": _processes}[part](rows, axes)
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file.getvalue()


def _manifest(rows: Sequence[Row], axes: Sequence[Axes]) -> None:
    steps = [s for s in dict.fromkeys(row["step"] for row in rows) if not s.startswith("loader")]
    for axis, key, label in ((axes[0], "cpu_seconds", "CPU seconds"), (axes[1], "peak_mb", "peak resident memory, MB")):
        _lines(axis, {s: [(r["items"], r[key]) for r in rows if r["step"] == s] for s in steps}, ("items", label))
    axes[1].axhline(2000, color="firebrick", linewidth=1)
    axes[0].legend(fontsize=7)


def _inference(rows: Sequence[Row], axes: Sequence[Axes]) -> None:
    _lines(axes[0], {"folder": [(r["images"], r["seconds"]) for r in rows]}, ("images", "seconds"))
    _lines(axes[1], {"folder": [(r["images"], r["peak_mb"]) for r in rows]}, ("images", "peak resident memory, MB"))
    axes[1].set_ylim(bottom=100, top=10000)


def _size(rows: Sequence[Row], axes: Sequence[Axes]) -> None:
    sides = sorted({row["side"] for row in rows})
    for axis, key, label in ((axes[0], "ms_per_call", "ms a call"), (axes[1], "peak_mb", "peak resident memory, MB")):
        lines = {f"{s} px": [(r["batch"], r[key]) for r in rows if r["side"] == s] for s in sides}
        _lines(axis, lines, ("batch", label))
    axes[0].legend(fontsize=7)


def _processes(rows: Sequence[Row], axes: Sequence[Axes]) -> None:
    names = [str(row["processes"]) for row in rows]
    for axis, key in zip(axes, ("images_per_second", "peak_mb_of_largest_process"), strict=True):
        axis.bar(names, [row[key] for row in rows], width=0.5)
        axis.set(xlabel="processes on the same cores", ylabel=key.replace("_", " "))


def _lines(axis: Axes, lines: Mapping[str, Line], labels: tuple[str, str]) -> None:
    for name, points in lines.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    first = min(points[0] for points in lines.values())
    last = max(points[-1][0] for points in lines.values())
    top = max(points[0][1] for points in lines.values())
    axis.plot([first[0], last], [top, top * last / first[0]], "k:", linewidth=1, label="linear growth")
    axis.set(xscale="log", yscale="log", xlabel=labels[0], ylabel=labels[1])
    axis.grid(alpha=0.3)
