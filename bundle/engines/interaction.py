# SPDX-License-Identifier: Apache-2.0
"""A simulated user in training: clicks, boxes and former masks for samples that were drawn for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from bundle.guidance import SimulatedUser, draw_guidance
from bundle.tasks import Task
from bundle.tasks.targets import join, select


class _Session:
    """One sample's user: what is wanted, what was said, and what is left to say."""

    def __init__(self, row: int, structure: int, truth: np.ndarray, plan: Tensor, wrong_prob: float) -> None:
        clicks, box, former, seed = plan.tolist()
        self.row, self.structure = row, structure
        self.clicks, self.give_back = clicks, bool(former)
        self.mask: Tensor | None = None
        self.user = SimulatedUser(truth, np.random.default_rng(seed), wrong_prob)
        self.starts_from_pred = bool(box)
        if box:
            self.user.draw_box(jitter=0.1)

    def click(self, pred: Tensor | None) -> None:
        self.clicks -= 1
        found = self.user.click(None if pred is None else pred.numpy())
        if not found:
            self.clicks = 0
        elif self.give_back and pred is not None:
            self.mask = pred.float()

    def draw(self, radius: float) -> Tensor:
        said = self.user
        return draw_guidance(
            said.truth.shape, wanted=said.wanted, unwanted=said.unwanted, box=said.box, mask=self.mask, radius=radius
        )


class SimulatedInteraction:
    """Trainer step that adds to the batch what simulated users ask of the samples that ``interaction`` says so.

    A user wants one structure, drawn among those in the sample's mask; a copy of the sample, which comes behind the
    batch, is trained on that structure against the rest, without its class. The sample itself stays: the automatic
    result is trained as much as without users. The first click lies inside the structure, later ones in the middle of
    the largest error of the network's current prediction (in evaluation mode); a box comes before the clicks. Samples
    whose mask is empty get no user. MONAI's ``Interaction`` runs all samples of a batch through the same number of
    clicks, and its 2D click transforms know neither boxes nor largest errors.

    Args:
        tasks: the declared tasks; without one that takes clicks there are no users.
        radius: of a click's disk, in pixels.
        wrong_prob: probability that a click goes beside the structure.
    """

    def __init__(self, tasks: Sequence[Task], radius: float, wrong_prob: float = 0.05) -> None:
        self.tasks, self.radius, self.wrong_prob = list(tasks), radius, wrong_prob
        self.guided = next((task for task in self.tasks if task.guided), None)

    def __call__(self, engine: Engine, batchdata: Mapping[str, Any]) -> Any:
        """One iteration of a MONAI ``SupervisedTrainer``."""
        batch = dict(batchdata)
        if self.guided is not None and (sessions := self._sessions(batch, self.guided)):
            self._interact(engine, batch, sessions, self.guided)
        return engine._iteration(engine, batch)

    def _sessions(self, batch: dict[str, Any], guided: Task) -> list[_Session]:
        """The users; the rows that they ask for are added to the batch."""
        sessions: list[_Session] = []
        wishes: list[tuple[int, int]] = []  # sample, structure
        masks = batch["targets"][guided.name]
        for sample, plan in enumerate(batch["interaction"]):
            label, labeled = masks["label"][sample], masks["labeled"][sample]
            present = [int(v) for v in torch.unique(label) if v > 0 and labeled[int(v)]]
            if not plan[:2].any() or not present:
                continue
            structure = present[int(plan[3]) % len(present)]
            truth = (label[0] == structure).numpy()
            row = len(batch["image"]) + len(wishes)
            sessions.append(_Session(row, structure, truth, plan, self.wrong_prob))
            wishes.append((sample, structure))
        if sessions:
            self._add(batch, wishes, guided)
        return sessions

    def _add(self, batch: dict[str, Any], wishes: Sequence[tuple[int, int]], guided: Task) -> None:
        """Adds copies of the samples to the batch, trained on one structure each."""
        samples = torch.tensor([sample for sample, _ in wishes])
        for key in ("image", "prompt"):
            batch[key] = torch.cat([batch[key], batch[key][samples]])
        targets = {}
        for task in self.tasks:
            target = batch["targets"][task.name]
            copies = select(target, samples)
            if task is guided:
                wanted = torch.tensor([structure for _, structure in wishes])
                copies["label"] = copies["label"] * (copies["label"] == wanted.reshape(-1, 1, 1, 1))
                copies["labeled"] = torch.zeros_like(copies["labeled"])
                copies["labeled"][:, 0] = True
                copies["labeled"][torch.arange(len(wishes)), wanted] = True
            else:
                copies = task.without(copies)
            targets[task.name] = join(target, copies)
        batch["targets"] = targets

    def _interact(self, engine: Engine, batch: dict[str, Any], sessions: list[_Session], guided: Task) -> None:
        image = batch["image"]
        batch["guided"] = torch.arange(len(image)) >= len(image) - len(sessions)
        batch["image"] = torch.cat([image, image.new_zeros(len(image), 2, *image.shape[2:])], 1)

        def draw(session: _Session) -> None:
            batch["image"][session.row, -2:] = session.draw(self.radius)

        for session in sessions:
            if not session.starts_from_pred:
                session.click(None)
            draw(session)
        while active := [session for session in sessions if session.clicks > 0]:
            for session, pred in zip(active, _predict(engine, batch, active, guided), strict=True):
                session.click(pred)
                draw(session)


def _predict(engine: Engine, batch: Mapping[str, Any], sessions: list[_Session], guided: Task) -> Tensor:
    """The sessions' current predictions (N, H, W) bool, on the CPU."""
    network: nn.Module = engine.network
    plain = getattr(network, "module", network)  # without DistributedDataParallel: processes ask unequally often
    rows = [session.row for session in sessions]
    device = engine.state.device
    plain.eval()
    with torch.no_grad():
        logits = plain(batch["image"][rows].to(device), batch["prompt"][rows].to(device))[guided.name]
    plain.train()
    channels = torch.tensor([session.structure for session in sessions], device=device)
    margins = logits[torch.arange(len(rows), device=device), channels] - logits[:, 0]
    pred: Tensor = (margins > 0).cpu()
    return pred
