# SPDX-License-Identifier: Apache-2.0
"""Class scores against numbers worked out by hand, and intervals against scikit-learn."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from sklearn.metrics import roc_auc_score

from bundle.metrics import classification_rows, summarize_classification
from bundle.metrics.bootstrap import group_weights, mean_estimate
from bundle.metrics.classification import auroc, confusion_scores, point_scores, weighted_auroc, weighted_confusion

SETS = {"gallbladder": ["healthy", "biliary atresia"], "lung": ["healthy", "pneumonia", "covid-19"]}


def make_rows(truth: list[int], positive: list[float], name: str = "gallbladder") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i, (t, p) in enumerate(zip(truth, positive, strict=True)):
        item = {
            "image": MetaTensor(torch.zeros(3, 4, 4), meta={"filename_or_obj": f"/data/{i}.png"}),
        }
        classes, probabilities = SETS[name], torch.tensor([1 - p, p])
        rows += classification_rows(item, t, probabilities, label_set=name, classes=classes)
    return rows


def test_four_samples_by_hand() -> None:
    # positives .8 and .4, negatives .6 and .1: three of four pairs in order; at .5 one hit and one false alarm
    (summary,) = summarize_classification(
        make_rows([1, 1, 0, 0], [0.8, 0.4, 0.6, 0.1]), label_sets=SETS, resamples=20, seed=0
    )
    assert summary["label_set"] == "gallbladder"
    assert summary["auroc"]["value"] == pytest.approx(3 / 4)
    assert summary["accuracy"]["value"] == pytest.approx(2 / 4)
    assert summary["sensitivity"] == {"biliary atresia": summary["sensitivity"]["biliary atresia"]}
    assert summary["sensitivity"]["biliary atresia"]["value"] == pytest.approx(1 / 2)
    assert summary["specificity"]["biliary atresia"]["value"] == pytest.approx(1 / 2)
    assert summary["confusion"] == [[1, 1], [1, 1]]
    assert summary["images"] == 4


def test_unbalanced_classes_by_hand() -> None:
    # truth 0 0 0 1, predictions 0 0 1 1: recalls 2/3 and 1, F1 of class 0 4/5, of class 1 2/3
    scores = point_scores(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), num_classes=2)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores["sensitivity"] == pytest.approx([2 / 3, 1])
    assert scores["specificity"] == pytest.approx([1, 2 / 3])


def test_auroc_needs_every_class_and_says_which_is_missing() -> None:
    assert math.isnan(auroc(np.array([0, 0]), np.array([[0.5, 0.5], [0.4, 0.6]])))
    (summary,) = summarize_classification(make_rows([0, 0], [0.2, 0.7]), label_sets=SETS, resamples=20, seed=0)
    assert summary["auroc"]["value"] is None
    assert summary["auroc_note"] == "not defined: no image of biliary atresia"


@pytest.mark.parametrize("num_classes", [2, 3])
def test_vectorized_scores_equal_scikit_learn(num_classes: int) -> None:
    rng = np.random.default_rng(3)
    truth = np.arange(60) % num_classes
    probabilities = rng.dirichlet(np.ones(num_classes), size=60).round(1) + 0.1  # rounded, so that there are ties
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    pred = probabilities.argmax(axis=1)
    weights = group_weights([f"p{i // 4}" for i in range(60)], resamples=5, seed=1)
    fast = confusion_scores(weighted_confusion(truth, pred, weights=weights, num_classes=num_classes))
    areas = weighted_auroc(truth, probabilities, weights=weights)
    for r in range(5):
        drawn = np.repeat(np.arange(60), weights[r].astype(int))
        for name, value in point_scores(truth[drawn], pred[drawn], num_classes=num_classes).items():
            np.testing.assert_allclose(fast[name][r], value, err_msg=name)
        assert areas[r] == pytest.approx(auroc(truth[drawn], probabilities[drawn]))
    scores = probabilities[:, 1] if num_classes == 2 else probabilities
    assert auroc(truth, probabilities) == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr"))


def test_ties_and_weights_of_the_rank_area_by_hand() -> None:
    """Positives .8 and .4, negatives .4 and .1: pairs in order 1, 1, 1/2, 1; then .4 is drawn twice."""
    truth, positive = np.array([1, 1, 0, 0]), np.array([0.8, 0.4, 0.4, 0.1])
    weights = np.array([[1.0, 1, 1, 1], [0, 2, 1, 1], [0, 2, 2, 0], [2, 2, 0, 0]])
    areas = weighted_auroc(truth, np.stack([1 - positive, positive], axis=1), weights=weights)
    assert areas[:3].tolist() == [3.5 / 4, 3 / 4, 1 / 2]
    assert math.isnan(areas[3])  # no negative is drawn


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_rank_area_is_that_of_all_pairs_to_the_bit(num_classes: int) -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, num_classes, 300)
    probabilities = rng.integers(0, 9, (300, num_classes)) / 8  # many ties
    weights = group_weights([str(i // 3) for i in range(300)], resamples=20, seed=0)
    areas = []
    for label in [1] if num_classes == 2 else range(num_classes):
        scores, positive = probabilities[:, label], truth == label
        order = (np.sign(scores[positive][:, None] - scores[~positive][None, :]) + 1) / 2
        up, down = weights[:, positive], weights[:, ~positive]
        areas.append(((up @ order) * down).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1)))
    np.testing.assert_array_equal(weighted_auroc(truth, probabilities, weights=weights), np.mean(areas, axis=0))


def test_the_time_of_the_rank_area_grows_in_proportion() -> None:
    """Of 12,000 images, 20 resamples took a second when all pairs were compared; of 96,000 they would take a minute."""
    rng = np.random.default_rng(0)
    truth, positive = rng.integers(0, 2, 96_000), rng.random(96_000)
    weights = rng.integers(0, 3, (20, 96_000)).astype(np.float64)
    start = time.process_time()
    areas = weighted_auroc(truth, np.stack([1 - positive, positive], axis=1), weights=weights)
    assert time.process_time() - start < 5
    assert areas[0] == pytest.approx(roc_auc_score(truth, positive, sample_weight=weights[0]))


def test_a_class_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"class of 'gallbladder' must be 0 to 1, got 2 for /data/0.png"):
        make_rows([2], [0.5])


def test_probabilities_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be 2 finite numbers, got \[nan, nan\] for /data/0.png"):
        make_rows([1], [float("nan")])


def test_groups_are_drawn_whole_and_as_often_as_there_are() -> None:
    weights = group_weights(["a", "a", "a", "b", "c"], resamples=200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 3, 4]].sum(axis=1) == 3).all()


def test_the_interval_is_deterministic_and_widens_when_images_share_a_patient() -> None:
    values = [i % 2 for i in range(40)]
    values.sort()
    single = mean_estimate(values, [str(i) for i in range(40)], resamples=1000, seed=7)
    joined = mean_estimate(values, [str(i // 10) for i in range(40)], resamples=1000, seed=7)
    assert single == mean_estimate(values, [str(i) for i in range(40)], resamples=1000, seed=7)
    assert single["value"] == joined["value"] == 0.5
    assert single["low"] is not None
    assert single["high"] is not None
    # binomial, n = 40: half width 1.96 * sqrt(.25 / 40) = .155; ten images per patient: 1.96 * sqrt(.25 / 4) = .49
    assert (single["high"] - single["low"]) / 2 == pytest.approx(0.155, abs=0.025)
    assert joined == {"value": 0.5, "low": 0.0, "high": 1.0}


def test_the_interval_holds_the_true_mean_nearly_always() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(100):
        effect = rng.normal(size=30)  # 30 patients, 5 images each: most of the spread is between patients
        values = (effect[:, None] + 0.3 * rng.normal(size=(30, 5))).ravel()
        result = mean_estimate(values.tolist(), [str(i // 5) for i in range(150)], resamples=300, seed=trial)
        assert result["low"] is not None
        assert result["high"] is not None
        held += result["low"] <= 0 <= result["high"]
    assert 88 <= held <= 99  # 95 expected; intervals by image would hold it in about 60


def test_one_group_has_no_interval() -> None:
    assert mean_estimate([0.2, 0.4], ["a", "a"], resamples=10, seed=0) == {
        "value": pytest.approx(0.3),
        "low": None,
        "high": None,
    }
    assert mean_estimate([], [], resamples=10, seed=0) == {"value": None, "low": None, "high": None}
