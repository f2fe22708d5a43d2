# SPDX-License-Identifier: Apache-2.0
import pytest

from bundle.data.names import find_name, same_names

TABLE = ["healthy", "biliary atresia", "COVID-19", "Größe", "a b", "a_b"]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("Healthy", "healthy"),
        ("BiliaryAtresia", "biliary atresia"),
        ("covid_19", "COVID-19"),
        ("Covid\u201119", "COVID-19"),
        ("GRO\u0308SSE", "Größe"),
        ("a_b", "a_b"),
        ("A-B", None),  # two entries mean that
        ("covid", None),
        ("-", None),
    ],
)
def test_names_are_found_whatever_their_spelling(name: str, entry: str | None) -> None:
    assert find_name(name, TABLE) == entry


def test_names_that_mean_the_same_are_found() -> None:
    assert same_names(TABLE) == [("a b", "a_b")]
    assert same_names(["x", "y", "x"]) == [("x", "x")]
