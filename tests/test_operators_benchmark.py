# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from scripts.benchmarks import operators
from scripts.benchmarks.operators import profiled, torch_group

IMAGE = [1, 8, 14, 14]


@pytest.mark.parametrize(
    ("name", "shapes", "group"),
    [
        ("aten::mkldnn_convolution", [IMAGE, [8, 1, 7, 7], [8]], operators.DEPTHWISE),
        ("aten::mkldnn_convolution", [IMAGE, [16, 8, 1, 1], [16]], operators.MATRIX),
        ("aten::mkldnn_convolution", [IMAGE, [16, 8, 3, 3], [16]], operators.WIDE),
        ("aten::convolution_backward", [IMAGE, IMAGE, [8, 1, 7, 7]], operators.DEPTHWISE),
        ("aten::convolution_backward", [IMAGE, IMAGE, [8, 8, 3, 3]], operators.WIDE),
        ("aten::addmm", [], operators.MATRIX),
        ("aten::upsample_bilinear2d", [], operators.SCALING),
        ("aten::native_layer_norm", [], operators.POINTWISE),
        ("aten::gelu", [], operators.POINTWISE),
        ("aten::copy_", [], operators.LAYOUT),
        ("aten::_foreach_addcmul_", [], operators.OPTIMIZER),
        ("aten::chunk", [], operators.OTHER),
    ],
)
def test_operators_are_counted_where_they_belong(name: str, shapes: list[list[int]], group: str) -> None:
    assert torch_group(name, shapes) == group


def test_what_a_call_runs_is_found() -> None:
    image, weight = torch.randn(1, 8, 32, 32), torch.randn(8, 8, 3, 3)
    times = profiled(lambda: torch.nn.functional.conv2d(image, weight).relu(), calls=2)
    assert times[operators.WIDE] > 0
    assert times[operators.POINTWISE] > 0
    assert operators.DEPTHWISE not in times
