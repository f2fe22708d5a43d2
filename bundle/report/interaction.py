# SPDX-License-Identifier: Apache-2.0
"""What clicks are worth: a simulated user corrects every structure of a split, and a report of how the Dice rises."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.data import decollate_batch
from monai.metrics import compute_dice

from bundle.engines.score import gather_rows, unreadable_row
from bundle.failures import one_line
from bundle.files import OutputFolder, writable_folder
from bundle.guidance import SimulatedUser
from bundle.metrics.bootstrap import mean_estimate
from bundle.metrics.segmentation import item_origin
from bundle.report.pictures import png
from bundle.report.tables import common_folder, end_with, unreadable_lines, without_folder
from bundle.tables import csv_table

logger = logging.getLogger(__name__)

OUTPUTS = ("clicks.md", "clicks.json", "clicks.csv", "clicks.png")
SHOWN_CLICKS = (0, 1, 2, 3, 5, 10)
GOALS = (0.85, 0.90, 0.95)


class InteractionTrials:
    """Evaluator step: a simulated user on every structure of every image, on the native grid, as the server answers.

    For each structure that an image holds three trials: *clicks* (the automatic result, then a click in the middle of
    the structure and further ones in the middle of the largest error), *box* (the exact box alone), *wrong* (after
    ``wrong_after`` clicks one beside the structure, then one more right one). MONAI's ``Interaction`` simulates clicks
    for training.

    Args:
        inferer: :class:`bundle.engines.PromptedInferer`.
        draw: :class:`bundle.transforms.DrawGuidanced`.
        postprocessing: from logits to the label map (1, H, W).
        structures: names of the segmentation channels, background first.
        max_clicks: clicks on each structure.
        wrong_after: right clicks before the wrong one; fewer where ``max_clicks`` is less.
    """

    def __init__(
        self,
        *,
        inferer: Callable[..., Any],
        draw: Callable[[Any], dict[str, Any]],
        postprocessing: Callable[[Any], Any],
        structures: Sequence[str],
        max_clicks: int = 10,
        wrong_after: int = 3,
    ) -> None:
        self.inferer, self.draw, self.postprocessing = inferer, draw, postprocessing
        self.structures, self.max_clicks = list(structures), max_clicks
        self.wrong_after = min(wrong_after, max_clicks)

    def __call__(self, engine: Engine, batchdata: Any) -> list[dict[str, Any]]:
        """Rows with ``dataset``, ``image``, ``patient``, ``group``, ``structure``, ``trial``, ``clicks``, ``dice``.

        An image that could not be read has one row, with ``error``.
        """
        engine.network.eval()
        rows = []
        for item in decollate_batch(batchdata):
            if item.get("error"):
                rows.append({**unreadable_row(item), "structure": "", "trial": "", "clicks": 0})
                continue
            for structure in range(1, len(self.structures)):
                truth = (item["label"][0] == structure).numpy()
                if truth.any() and bool(item["labeled"][structure]):
                    origin = {**item_origin(item), "structure": self.structures[structure]}
                    rows += [{**origin, **trial} for trial in self._trials(engine, item, structure, truth)]
        return rows

    def _trials(
        self, engine: Engine, item: Mapping[str, Any], structure: int, truth: np.ndarray
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []

        def score(user: SimulatedUser, trial: str, clicks: int) -> np.ndarray:
            pred = self._predict(engine, item, structure, user)
            pair = [torch.from_numpy(mask)[None, None].float() for mask in (pred, truth)]
            rows.append({"trial": trial, "clicks": clicks, "dice": float(compute_dice(*pair))})
            return pred

        user, careless = SimulatedUser(truth), SimulatedUser(truth)
        pred = score(user, "clicks", 0)
        for clicks in range(1, self.max_clicks + 1):
            if user.click(None if clicks == 1 else pred):
                pred = score(user, "clicks", clicks)
            else:  # nothing left to correct
                rows.append({**rows[-1], "clicks": clicks})
            if clicks == self.wrong_after:
                careless = SimulatedUser(truth, wanted=[*user.wanted], unwanted=[*user.unwanted])
        boxed = SimulatedUser(truth)
        boxed.draw_box()
        score(boxed, "box", 0)
        careless.click_wrong()
        pred = score(careless, "wrong", self.wrong_after + 1)
        careless.click(pred)
        score(careless, "wrong", self.wrong_after + 2)
        return rows

    def _predict(self, engine: Engine, item: Mapping[str, Any], structure: int, user: SimulatedUser) -> np.ndarray:
        said = {"wanted": user.wanted, "unwanted": user.unwanted, "box": user.box, "mask": None}
        guidance = {structure: said} if any(said.values()) else {}
        image = self.draw({"image": item["image"], "guidance": guidance})["image"]
        with torch.no_grad():
            batch = image[None].to(engine.state.device)
            outputs = self.inferer(batch, engine.network, prompt=item["prompt"][None])
        logits = {name: value[0] for name, value in outputs.items()}
        given = {"image": item["image"], "position": item.get("position"), "guidance": guidance}
        pred: np.ndarray = self.postprocessing({**given, "pred": logits})["pred"][0].numpy() == structure
        return pred


class InteractionReport:
    """Writes what the trials found: ``clicks.csv`` (a row per answer), ``clicks.json``, ``clicks.md``, ``clicks.png``.

    Args:
        output_dir: folder to write to.
        split: name of the evaluated split.
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.

    Raises:
        FileExistsError: at the start, when a file that no earlier run wrote would be replaced.
    """

    def __init__(self, output_dir: str, *, split: str, seed: int = 0, resamples: int = 1000) -> None:
        self.output_dir, self.split = Path(output_dir), split
        self.seed, self.resamples = seed, resamples

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator whose step is :class:`InteractionTrials`."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: self.rows.extend(engine.state.output))
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self) -> None:
        self.rows: list[dict[str, Any]] = []
        writable_folder(str(self.output_dir))
        self.folder = OutputFolder(self.output_dir)
        self.folder.check(OUTPUTS)

    def _write(self) -> None:
        found = gather_rows(self.rows, keys=("image", "structure", "trial", "clicks"))
        if idist.get_rank() != 0:
            return
        folder = common_folder([row["image"] for row in found])
        unreadable = without_folder([row for row in found if "error" in row], folder)
        rows = [row for row in found if "error" not in row]
        names = dict.fromkeys((row["dataset"], row["structure"]) for row in rows)
        entries = [self._entry([r for r in rows if (r["dataset"], r["structure"]) == name]) for name in names]
        lines = "\n".join([*markdown(entries, self.split), *unreadable_lines(unreadable)])
        contents = (
            (lines + "\n").encode(),
            (json.dumps(entries, indent=1) + "\n").encode(),
            csv_table(without_folder(rows, folder)),
            draw_curves(entries),
        )
        logger.info(lines)
        for name, content in zip(OUTPUTS, contents, strict=True):
            logger.info(f"written: {self.folder.write(name, content)}")
        end_with(unreadable)

    def _entry(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One data set's structure: estimates with their 95 % intervals by patient."""
        table = {(r["image"], r["trial"], r["clicks"]): r["dice"] for r in rows}
        images = list(dict.fromkeys(r["image"] for r in rows))
        groups = [next(r["group"] for r in rows if r["image"] == image) for image in images]
        last = max(r["clicks"] for r in rows if r["trial"] == "clicks")
        wrong = min(r["clicks"] for r in rows if r["trial"] == "wrong")

        def estimate(values: Sequence[float]) -> dict[str, Any]:
            return {**mean_estimate(values, groups, resamples=self.resamples, seed=self.seed)}

        def column(trial: str, clicks: int) -> list[float]:
            return [table[image, trial, clicks] for image in images]

        def reach(goal: float) -> dict[str, Any]:
            dice = [[table[image, "clicks", n] for n in range(last + 1)] for image in images]
            needed = [next((n for n, value in enumerate(values) if value >= goal), None) for values in dice]
            reached = [n for n in needed if n is not None]
            counts = [last if n is None else n for n in needed]
            return {"clicks": estimate(counts), "reached": len(reached) / len(images)}

        before, after, mended = column("clicks", wrong - 1), column("wrong", wrong), column("wrong", wrong + 1)
        return {
            "dataset": rows[0]["dataset"],
            "structure": rows[0]["structure"],
            "images": len(images),
            "patients": len({r["patient"] for r in rows}),
            "dice": {str(n): estimate(column("clicks", n)) for n in range(last + 1)},
            "box": estimate(column("box", 0)),
            "wrong": {
                "after": wrong - 1,
                "change": estimate([b - a for a, b in zip(before, after, strict=True)]),
                "change_after_one_more": estimate([b - a for a, b in zip(before, mended, strict=True)]),
            },
            "goals": {f"{goal:.2f}": reach(goal) for goal in GOALS},
            "most_clicks": last,
        }


def _shown(estimate: Mapping[str, Any], digits: int = 3) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    interval = "" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{interval}"


def _name(entry: Mapping[str, Any]) -> str:
    return one_line(f"{entry['dataset']}, {entry['structure']}")


def markdown(entries: Sequence[Mapping[str, Any]], split: str) -> list[str]:
    """The trials as Markdown lines: Dice by clicks, then box, wrong click and clicks to a goal."""
    shown = [n for n in SHOWN_CLICKS if n <= min((e["most_clicks"] for e in entries), default=0)]
    lines = [f"# Clicks: {split} split", ""]
    lines += ["| data set, structure | images | " + " | ".join(f"{n} clicks" for n in shown) + " | box alone |"]
    lines += ["|---" * (len(shown) + 3) + "|"]
    for e in entries:
        cells = [_shown(e["dice"][str(n)]) for n in shown]
        lines.append(f"| {_name(e).replace('|', '/')} | {e['images']} | {' | '.join(cells)} | {_shown(e['box'])} |")
    lines += ["", "| data set, structure | " + " | ".join(f"clicks to {g:.2f}, reached" for g in GOALS)]
    lines[-1] += " | change by a wrong click | after one more right click |"
    lines += ["|---" * (len(GOALS) + 3) + "|"]
    for e in entries:
        cells = [f"{_shown(g['clicks'], 1)}, {g['reached']:.0%}" for g in e["goals"].values()]
        cells += [_shown(e["wrong"][key]) for key in ("change", "change_after_one_more")]
        lines.append(f"| {_name(e).replace('|', '/')} | {' | '.join(cells)} |")
    notes = (
        "Mean Dice over the images that hold the structure, on the native grid, with 95 % bootstrap intervals by "
        "patient. 0 clicks is the automatic result; the first click is in the middle of the structure, later ones in "
        "the middle of the largest error. Clicks to a Dice: an image that never reaches it counts with the most clicks "
        "tried. The wrong click lies beside the structure."
    )
    return [*lines, "", notes]


def draw_curves(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Mean Dice against clicks with its interval, one line per structure, as a PNG file."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for e in entries:
        clicks = np.arange(e["most_clicks"] + 1)
        dice = [e["dice"][str(n)] for n in clicks]
        (line,) = axes.plot(clicks, [d["value"] for d in dice], marker="o", label=_name(e))
        if all(d["low"] is not None for d in dice):
            axes.fill_between(clicks, [d["low"] for d in dice], [d["high"] for d in dice], alpha=0.15, lw=0)
        axes.axhline(e["box"]["value"], color=line.get_color(), ls=":", lw=1)
    axes.set(xlabel="clicks", ylabel="Dice (dotted: box alone)", ylim=(0, 1))
    axes.grid(alpha=0.3)
    for text in axes.legend(loc="lower right").get_texts():
        text.set_parse_math(False)
    return png(figure, dpi=110)
