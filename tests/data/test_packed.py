# SPDX-License-Identifier: Apache-2.0
import math
import pickle

import pytest

from bundle.data.packed import PackedItems


def test_packed_items_are_a_sequence_of_equal_dictionaries() -> None:
    items = [{"image": f"{i}.png", "mask_values": {0: 0, 255: i}, "cls": [i, -1], "scaled": bool(i)} for i in range(3)]
    packed = PackedItems()
    for item in items:
        packed.append(item)
    assert (len(packed), list(packed), packed[-1], packed[1:]) == (3, items, items[2], items[1:])
    assert packed == items
    assert pickle.loads(pickle.dumps(packed)) == items
    packed[0]["image"] = "changed"
    assert packed[0] == items[0]
    with pytest.raises(IndexError, match="out of range"):
        packed[3]


def test_nan_survives() -> None:
    packed = PackedItems()
    packed.append({"spacing": [math.nan, 0.5]})
    assert math.isnan(packed[0]["spacing"][0])


def test_items_of_other_keys_are_refused() -> None:
    packed = PackedItems()
    packed.append({"image": "a"})
    with pytest.raises(ValueError, match=r"keys of all items must be equal, \['image'\] expected, got \['label'\]"):
        packed.append({"label": "a"})
