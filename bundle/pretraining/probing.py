# SPDX-License-Identifier: Apache-2.0
"""How much a simple classifier tells from an encoder's frozen features, patient by patient."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from bundle.described import described_network
from bundle.failures import reason
from bundle.metrics import Row, classification_rows, summarize_classification
from bundle.networks import build_encoder
from bundle.networks.weights import read_file
from bundle.pretraining.teachers import WHEELS, Teacher

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """Images of one data set with classes.

    Attributes:
        dataset, label_set: names.
        classes: names of the classes.
        items: ``image`` (path), ``dataset``, ``patient`` and ``group``.
        truth: index of each item's class.
        test: whether each item is scored alone, in a split that others made; None: folds by patient.
    """

    dataset: str
    label_set: str
    classes: list[str]
    items: list[dict[str, Any]]
    truth: list[int]
    test: list[bool] | None = None


def questions_of(manifest: Mapping[str, Any], *, root: Path, splits: Sequence[str]) -> list[Question]:
    """The questions of a manifest: one for each data set with classes.

    Args:
        manifest: of ``bundle.data.manifest.read_datalist``.
        root: folder that its images' paths start from.
        splits: whose images are taken.

    Raises:
        ValueError: when no image has a class.
    """
    found = []
    for dataset, entry in manifest["datasets"].items():
        taken = [
            item
            for item in manifest["items"]
            if item["dataset"] == dataset and "class" in item and item["split"] in splits
        ]
        names = [name for name in entry.get("classes", []) if any(item["class"] == name for item in taken)]
        if len(names) < 2:
            continue
        items = [{**_origin(item), "image": str(root / item["image"])} for item in taken]
        truth = [names.index(item["class"]) for item in taken]
        found.append(Question(dataset, entry["label_set"], names, items, truth))
    if not found:
        raise ValueError(f"a data set whose images have classes expected in {', '.join(splits)}, got none; add one.")
    return found


def _origin(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item[key] for key in ("dataset", "patient", "group")} | {"item": item["image"]}


def question_of_ultrabench(folder: str | Path) -> Question:
    """The classification of a data set that ``ultrabench`` has processed: ``train_val.json`` and ``test.json``.

    An image's patient is its ``patient``, else the file that it is a frame of (``source``), else itself.

    Raises:
        ValueError: when a file is missing or is no such list.

    Reference:
        Tupper and Gagné 2025, "Revisiting Data Augmentation for Ultrasound Images", arXiv 2501.13193.
    """
    folder, entries = Path(folder), []
    for name in ("train_val.json", "test.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            if not isinstance(content, list) or not content:
                raise ValueError(f"{type(content).__name__} of {len(content)} entries")
            for entry in content:
                entries.append({**entry, "image": str(entry["image"]), "label": int(entry["label"]), "part": name})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{folder / name}: expected a list of objects with image and label, as ultrabench writes for a "
                f"classification, got {error!r}; process the data set with ultrabench."
            ) from error
    labels = sorted({entry["label"] for entry in entries})
    texts = {entry["label"]: str(entry.get("pathology") or entry["label"]) for entry in entries}
    items = []
    for entry in entries:
        patient = str(entry.get("patient") or entry.get("source") or entry["image"])
        origin = {"dataset": folder.name, "patient": patient, "group": patient, "item": entry["image"]}
        items.append({**origin, "image": str(folder / entry["image"])})
    truth, test = [labels.index(e["label"]) for e in entries], [e["part"] == "test.json" for e in entries]
    if len(labels) < 2 or len(set(truth[i] for i, held in enumerate(test) if not held)) < 2:
        raise ValueError(f"{folder}: expected two classes or more, got {list(texts.values())}; choose another.")
    return Question(folder.name, "pathology", [texts[label] for label in labels], items, truth, test)


class Encoding(nn.Module):
    """An encoder whose last map is averaged: images (B, 3, H, W) in [0, 1] become features (B, C).

    Args:
        source: a name of timm for random weights, ``NAME=FILE`` for weights of a file, ``NAME=package`` for ImageNet
            weights of an installed package (``bundle.pretraining.teachers.WHEELS``), or a file that a pretraining or
            training of this project wrote.

    Attributes:
        seen: data sets that the file says it was pretrained on; None where it does not say.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, source: str) -> None:
        super().__init__()
        name, _, file = source.partition("=")
        self.seen: list[str] | None = [] if not file and not Path(source).is_file() else None
        if file == "package" and name in WHEELS:
            self.encoder: nn.Module = Teacher(name)
            mean, std = [0.0] * 3, [1.0] * 3  # it normalizes by itself
            self.seen = []
        else:
            if not file and Path(source).is_file():
                file, config = source, _config(source)
                name, self.seen = config["encoder"], config.get("learned_from")
            self.encoder = build_encoder(name, weights_file=file or None)
            mean, std = self.encoder.mean, self.encoder.std  # type: ignore[assignment]
        for key, value in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(list(value), dtype=torch.float32)[:, None, None])
        self.eval()

    @torch.inference_mode()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of images."""
        found = self.encoder((image - self.mean) / self.std)
        last: torch.Tensor = found[-1] if isinstance(self.encoder, Teacher) else found[0][-1]
        return last.mean((2, 3))


def _config(path: str) -> dict[str, Any]:
    content = read_file(path)
    if not isinstance(content, dict) or "network_config" not in content:
        raise ValueError(f"{path} must say which encoder it is of, got none; write NAME={path}, NAME being timm's.")
    return described_network(content["network_config"], path=path)


def readable(question: Question, transform: Compose) -> tuple[Question, list[tuple[str, str]]]:
    """A question without the images that cannot be read, and these: file and reason."""
    unread: dict[int, tuple[str, str]] = {}
    for place, item in enumerate(tqdm(question.items, desc=f"{question.dataset}, read", unit="image", leave=False)):
        try:
            transform(dict(item))
        except Exception as error:  # readers raise many kinds
            unread[place] = (str(item["image"]), reason(error))
    kept = [place for place in range(len(question.items)) if place not in unread]
    items, truth = [question.items[place] for place in kept], [question.truth[place] for place in kept]
    test = None if question.test is None else [question.test[place] for place in kept]
    return replace(question, items=items, truth=truth, test=test), list(unread.values())


def features_of(
    encoding: Encoding, items: Sequence[Mapping[str, Any]], transform: Compose, *, batch: int = 16, name: str = ""
) -> Features:
    """Features (N, C) of images.

    Args:
        encoding: of what.
        items: ``image`` (path).
        transform: an item to one with ``image`` (3, H, W) in [0, 1].
        batch: images at once.
        name: for the progress bar.
    """
    found = []
    for start in tqdm(range(0, len(items), batch), desc=name, unit="batch", leave=False):
        images = [torch.as_tensor(transform(dict(item))["image"]) for item in items[start : start + batch]]
        found.append(encoding(torch.stack(images).float()).numpy())
    return np.concatenate(found)


def classifiers(neighbors: int, seed: int) -> dict[str, Any]:
    """The probes: logistic regression on standardized features, and the nearest images by cosine."""
    return {
        "linear": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000, random_state=seed)
        ),
        f"{neighbors} neighbors": KNeighborsClassifier(neighbors, metric="cosine", weights="distance"),
    }


def probe(
    question: Question, features: Features, *, folds: int, neighbors: int, seed: int, resamples: int
) -> list[Row]:
    """Scores of each probe, of images that it was not fitted on: in folds by patient, or on the test split.

    Args:
        question: images and classes.
        features: of the images, (N, C).
        folds: at most; fewer where a class has fewer patients.
        neighbors: of the second probe; fewer where there are fewer images.
        seed: of the folds and of the bootstrap.
        resamples: of the bootstrap by patient.

    Returns:
        A row each: ``probe``, ``images``, ``patients``, and the estimates ``f1`` (macro) and ``auroc``.

    Raises:
        ValueError: when a class has the images of one patient alone.
    """
    truth, sets, rows = np.array(question.truth), {question.label_set: question.classes}, []
    parts = _parts(question, features, folds=folds, seed=seed)
    for name, model in classifiers(min(neighbors, *(len(fitted) for fitted, _ in parts)), seed).items():
        told: list[Row] = []
        for fitted, held in parts:
            model.fit(features[fitted], truth[fitted])
            full = np.zeros((len(held), len(question.classes)))
            full[:, model.classes_] = model.predict_proba(features[held])
            told += [row for place, one in zip(held, full, strict=True) for row in _rows(question, int(place), one)]
        [summary] = summarize_classification(told, label_sets=sets, resamples=resamples, seed=seed)
        rows.append({"probe": name, **{key: summary[key] for key in ("images", "patients", "f1", "auroc")}})
    return rows


def _parts(question: Question, features: Features, *, folds: int, seed: int) -> list[tuple[Any, Any]]:
    """Places of the images that a probe is fitted on, and of those that it is scored on."""
    if question.test is not None:
        return [(np.flatnonzero(~np.array(question.test)), np.flatnonzero(question.test))]
    groups = [item["group"] for item in question.items]
    patients = [len({g for g, t in zip(groups, question.truth, strict=True) if t == i}) for i in set(question.truth)]
    if min(patients) < 2:
        name = question.classes[patients.index(min(patients))]
        raise ValueError(f"{question.dataset} has one patient alone of {name}, which tells nothing")
    splitter = StratifiedGroupKFold(min(folds, *patients), shuffle=True, random_state=seed)
    return list(splitter.split(features, question.truth, groups))


def _rows(question: Question, place: int, probabilities: Any) -> list[Row]:
    item, truth = question.items[place], question.truth[place]
    loaded = SimpleNamespace(meta={"filename_or_obj": item["image"]})  # as scores know an image
    classes = question.classes
    return classification_rows(
        {**item, "image": loaded}, truth, probabilities, label_set=question.label_set, classes=classes
    )
