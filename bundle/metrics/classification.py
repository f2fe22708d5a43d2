# SPDX-License-Identifier: Apache-2.0
"""Class scores per label set: scikit-learn's values with bootstrap intervals by group.

In a set of two classes the last one is the positive class; with more, sensitivity and specificity are given per class
against the rest and AUROC is the mean over the classes (macro, one versus rest).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from bundle.metrics.bootstrap import Estimate, Floats, estimate, group_weights
from bundle.metrics.segmentation import Row, item_name, item_origin

Indices = NDArray[np.int64]


def classification_rows(
    item: Mapping[str, Any], truth: int, probabilities: Any, *, label_set: str, classes: Sequence[str]
) -> list[Row]:
    """One row when the item has a class: true and predicted class and all probabilities.

    Args:
        item: what ``item_origin`` names the image by.
        truth: index of its class; -1 without one.
        probabilities: (K,) softmax.
        label_set: name of the label set.
        classes: its K class names.

    Raises:
        ValueError: when a class is out of range, or the probabilities are not finite or not one per class.
    """
    if truth < 0:
        return []
    if truth >= len(classes):
        raise ValueError(
            f"class of {label_set!r} must be 0 to {len(classes) - 1}, got {truth} for {item_name(item)}; "
            "correct the item's class or the config's organs."
        )
    values = torch.as_tensor(probabilities).detach().cpu().double()
    if values.shape != (len(classes),) or not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"probabilities of {label_set!r} must be {len(classes)} finite numbers, got {values.tolist()} for "
            f"{item_name(item)}; if they are NaN the training has diverged: lower the learning rate."
        )
    prediction = int(values.argmax())
    row = {
        **item_origin(item),
        "label_set": label_set,
        "truth": classes[truth],
        "prediction": classes[prediction],
        "correct": prediction == truth,
        "probabilities": dict(zip(classes, (values / values.sum()).tolist(), strict=True)),
    }
    return [row]


def truth_and_probabilities(rows: Sequence[Row], classes: Sequence[str]) -> tuple[Indices, Floats]:
    """Class index (N,) and class probabilities (N, K) of the rows of one label set."""
    truth = np.array([list(classes).index(r["truth"]) for r in rows], dtype=np.int64)
    probabilities = np.array([[r["probabilities"][c] for c in classes] for r in rows], dtype=np.float64)
    return truth, probabilities.reshape(len(rows), len(classes))


def auroc(truth: Indices, probabilities: Floats) -> float:
    """Area under the ROC curve in [0, 1]; NaN unless every class occurs.

    Args:
        truth: class indices, shape (N,).
        probabilities: shape (N, K), rows sum to 1. K = 2: last class positive. K > 2: macro, one versus rest.
    """
    if len(set(truth.tolist())) < probabilities.shape[1]:
        return math.nan
    scores = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return float(roc_auc_score(truth, scores, multi_class="ovr", average="macro"))


def summarize_classification(
    rows: Sequence[Row], *, label_sets: Mapping[str, Sequence[str]], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Scores with 95 % intervals by group, one entry per label set that has rows.

    Args:
        rows: from ``classification_rows``.
        label_sets: label set -> class names.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    sets = {name: [r for r in rows if r["label_set"] == name] for name in label_sets}
    return [
        {"label_set": name, **_summary(members, list(label_sets[name]), resamples=resamples, seed=seed)}
        for name, members in sets.items()
        if members
    ]


def _summary(rows: list[Row], classes: list[str], *, resamples: int, seed: int) -> dict[str, Any]:
    groups = [r["group"] for r in rows]
    truth, probabilities = truth_and_probabilities(rows, classes)
    pred = probabilities.argmax(axis=1)
    weights = group_weights(groups, resamples=resamples, seed=seed)
    resampled = confusion_scores(weighted_confusion(truth, pred, weights=weights, num_classes=len(classes)))
    resampled["auroc"] = weighted_auroc(truth, probabilities, weights=weights)
    values = point_scores(truth, pred, num_classes=len(classes)) | {"auroc": np.array(auroc(truth, probabilities))}
    absent = [c for i, c in enumerate(classes) if i not in truth]
    summary: dict[str, Any] = {
        "classes": classes,
        "images": len(rows),
        "patients": len({r["patient"] for r in rows}),
        "groups": len(set(groups)),
        "per_class": {c: int((truth == i).sum()) for i, c in enumerate(classes)},
        "confusion": weighted_confusion(truth, pred, weights=np.ones((1, len(rows))), num_classes=len(classes))[0]
        .astype(int)
        .tolist(),
        "auroc_note": f"not defined: no image of {', '.join(absent)}" if absent else "",
    }
    for name in ("accuracy", "balanced_accuracy", "f1", "auroc"):
        summary[name] = estimate(float(values[name]), resampled[name], groups=groups)
    shown = range(1, 2) if len(classes) == 2 else range(len(classes))
    for name in ("sensitivity", "specificity"):
        summary[name] = {
            classes[i]: _class_estimate(values[name][i], resampled[name][:, i], groups=groups) for i in shown
        }
    return summary


def _class_estimate(value: float, resampled: Floats, *, groups: Sequence[str]) -> Estimate:
    return estimate(float(value), resampled, groups=groups)


def point_scores(truth: Indices, pred: Indices, *, num_classes: int) -> dict[str, Any]:
    """scikit-learn's scores: scalars, and (K,) sensitivity and specificity, NaN where a class has no case.

    Args:
        truth: class indices, shape (N,).
        pred: class indices, shape (N,).
        num_classes: K.
    """
    each = range(num_classes)
    return {
        "accuracy": accuracy_score(truth, pred),
        # Balanced accuracy by its definition; balanced_accuracy_score warns when a class is only predicted.
        "balanced_accuracy": recall_score(truth, pred, labels=np.unique(truth), average="macro"),
        "f1": f1_score(truth, pred, average="macro"),
        "sensitivity": [recall_score(truth == i, pred == i, zero_division=np.nan) for i in each],
        "specificity": [recall_score(truth != i, pred != i, zero_division=np.nan) for i in each],
    }


def weighted_confusion(truth: Indices, pred: Indices, *, weights: Floats, num_classes: int) -> Floats:
    """Confusion matrix in each resample, shape (resamples, K truth, K predicted).

    Args:
        truth: class indices, shape (N,).
        pred: class indices, shape (N,).
        weights: of each image in each resample, shape (resamples, N).
        num_classes: K.
    """
    one_hot = np.eye(num_classes**2)[truth * num_classes + pred]  # (N, K * K)
    return np.asarray(weights @ one_hot).reshape(-1, num_classes, num_classes)


def confusion_scores(confusion: Floats) -> dict[str, Floats]:
    """The scores of ``point_scores`` from confusion matrices (resamples, K, K): a thousand resamples at once."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    truth, pred, total = confusion.sum(axis=2), confusion.sum(axis=1), confusion.sum(axis=(1, 2))[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0 = NaN marks a class without cases
        sensitivity = hits / truth
        specificity = (total - truth - pred + hits) / (total - truth)
        f1 = 2 * hits / (truth + pred)
        accuracy = hits.sum(axis=1) / total[:, 0]
    return {
        "accuracy": accuracy,
        "balanced_accuracy": np.nanmean(sensitivity, axis=1),
        "f1": np.nanmean(f1, axis=1),
        "sensitivity": sensitivity,
        "specificity": specificity,
    }


def weighted_auroc(truth: Indices, probabilities: Floats, *, weights: Floats) -> Floats:
    """``auroc`` in each resample, shape (resamples,): NaN where a class does not occur.

    The share of (positive, negative) pairs in the right order, ties counting one half, each pair with the product of
    its images' weights; from ranks, so that the time grows as N log N.

    Args:
        truth: class indices, shape (N,).
        probabilities: shape (N, K).
        weights: shape (resamples, N).

    Reference:
        Hanley & McNeil 1982, Radiology 143:29-36 (AUROC as the Mann-Whitney statistic).
    """
    num_classes = probabilities.shape[1]
    areas = [
        _rank_area(truth == positive, probabilities[:, positive], weights=weights)
        for positive in ([1] if num_classes == 2 else range(num_classes))
    ]
    return np.asarray(np.mean(areas, axis=0))


def _rank_area(positive: NDArray[np.bool_], scores: Floats, *, weights: Floats) -> Floats:
    ups, downs = np.flatnonzero(positive), np.flatnonzero(~positive)
    downs = downs[np.argsort(scores[downs])]
    lower, upper = (np.searchsorted(scores[downs], scores[ups], side=side) for side in ("left", "right"))
    areas = np.full(len(weights), np.nan)
    for index, row in enumerate(weights):
        below = np.concatenate([[0.0], np.cumsum(row[downs])])  # weight of the negatives of the lowest scores
        if pairs := row[ups].sum() * below[-1]:
            areas[index] = (row[ups] * (below[lower] + below[upper]) / 2).sum() / pairs
    return areas
