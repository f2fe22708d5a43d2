# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from bundle.networks.upernet import SafeBatchNorm2d, UPerNetDecoder, adaptive_mean, conv_norm_relu


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 12), (7, 7), (7, 10), (4, 3)])
def test_adaptive_mean_equals_adaptive_average_pooling(bins, size):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(adaptive_mean(x, bins), nn.AdaptiveAvgPool2d(bins)(x), atol=1e-6, rtol=0)


def test_adaptive_mean_of_five_columns_in_two_bins():
    # bins 0..2 and 2..4 overlap in the middle: (0 + 1 + 2) / 3 and (2 + 3 + 4) / 3; the same in both rows
    assert adaptive_mean(torch.arange(5.0).reshape(1, 1, 1, 5), 2).tolist() == [[[[1.0, 3.0], [1.0, 3.0]]]]


def test_batch_norm_of_a_single_value_uses_running_statistics_and_keeps_them():
    norm = SafeBatchNorm2d(1, eps=0.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    assert norm(torch.full((1, 1, 1, 1), 7.0)).item() == 3.0  # (7 - 1) / 2
    assert (norm.running_mean.item(), norm.running_var.item(), norm.num_batches_tracked.item()) == (1.0, 4.0, 0)


def test_batch_norm_of_many_values_equals_torch():
    ours, theirs = SafeBatchNorm2d(3), nn.BatchNorm2d(3)
    for x in (torch.randn(2, 3, 1, 1), torch.randn(1, 3, 4, 5)):
        assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (192, 24), (96, 12), (80, 10), (20, 2), (13, 1), (4, 1)])
def test_group_norm_keeps_eight_or_more_channels_in_a_group(channels, groups):
    assert conv_norm_relu(3, channels, kernel_size=1, norm="group").norm.num_groups == groups


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be batch or group, got 'layer'"):
        conv_norm_relu(3, 8, kernel_size=1, norm="layer")


def test_the_map_has_the_size_of_the_finest_level():
    decoder = UPerNetDecoder(in_channels=[8, 16, 24, 32], channels=12, norm="group")
    levels = [torch.randn(2, c, 24 // 2**i, 16 // 2**i) for i, c in enumerate([8, 16, 24, 32])]
    assert decoder(levels).shape == (2, 12, 24, 16)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_fusion_at_each_maps_size_equals_that_of_the_joined_maps(norm):
    torch.manual_seed(0)
    decoder = UPerNetDecoder(in_channels=[8, 16, 24, 32], channels=12, norm=norm).double()
    maps = [torch.randn(2, 12, 48 // s, 32 // s, dtype=torch.float64, requires_grad=True) for s in (8, 4, 2, 1)]
    large = [nn.functional.interpolate(m, size=(48, 32), mode="bilinear", align_corners=False) for m in maps]
    expected = decoder.fusion(torch.cat(large[::-1], dim=1))  # fine to coarse
    found = decoder._fuse(maps)
    torch.testing.assert_close(found, expected)
    given = [*maps, decoder.fusion.conv.weight]
    seed = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad(found, given, seed), torch.autograd.grad(expected, given, seed), strict=True
    ):
        torch.testing.assert_close(got, wanted)
