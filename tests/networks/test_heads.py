# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bundle.networks import UPerConvNeXt
from bundle.networks.heads import FourfoldUpsampling, MaskHead, VectorHead
from bundle.networks.parts import deployed


def filled(head: nn.Module, **values: list) -> nn.Module:
    """A head with these parameters; "__" in a name is a dot."""
    for name, value in values.items():
        head.get_parameter(name.replace("__", ".")).data.copy_(torch.tensor(value))
    return head.eval()


@pytest.mark.parametrize(("plain", "expected"), [(False, [[31.5, 1.0]]), (True, [[3.5, 1.0]])])
def test_a_vector_head_reads_the_vector_after_or_before_the_prompt(plain: bool, expected: list) -> None:
    head = filled(
        VectorHead(2, ["a", "b"], plain=plain), linear__weight=[[1.0, 1.0], [0.0, 0.0]], linear__bias=[0.5, 1]
    )
    feature, before = torch.tensor([[10.0, 21.0]]), torch.tensor([[1.0, 2.0]])
    assert head(feature, feature, before).tolist() == expected
    assert deployed(head)(feature, feature, before).tolist() == expected


def test_a_mask_head_starts_as_the_upsampled_classifier() -> None:
    head = filled(
        MaskHead(1, ["background", "lesion"]), classifier__weight=[[[[0.0]]], [[[1.0]]]], classifier__bias=[7.0, 0]
    )
    fine, vector = torch.tensor([[[[0.0, 8.0]]]]), torch.zeros(1, 3)
    background, lesion = head(fine, vector, vector)[0]
    assert background.shape == (4, 8)
    assert (background == 7).all()
    # each value stands in the middle of four: 1.5 and 5.5; between them 8 (x - 1.5) / 4
    assert lesion[2].tolist() == [0, 0, 1, 3, 5, 7, 8, 8]
    torch.testing.assert_close(deployed(head)(fine, vector, vector), head(fine, vector, vector))


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_fourfold_upsampling_is_bilinear(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    expected = nn.functional.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(FourfoldUpsampling(3)(x), expected)


def test_row_axes_have_the_rows(make_network) -> None:
    for head in make_network().heads.values():
        for name, count in head.row_axes.items():
            assert head.get_parameter(name).shape[:count] == (len(head.rows),) * count


def test_the_decoder_runs_where_a_head_reads_its_map(make_network) -> None:
    network, image, runs = make_network().eval(), torch.rand(1, 3, 32, 64), []
    network.decoder.register_forward_hook(lambda *given: runs.append(1))
    expected = network.predict(image)
    for names, count in ((["cls_lung"], 0), (["cls_lung", "seg"], 1), (["cls_breast", "cls_lung"], 0)):
        runs.clear()
        found = network.predict(image, None, names)
        assert (set(found), len(runs)) == (set(names), count)
        assert all(torch.equal(found[name], expected[name]) for name in names)
    with pytest.raises(ValueError, match="heads must be among seg, cls_breast, cls_lung, got liver; correct the name"):
        network.predict(image, None, ["liver"])


def test_without_masks_the_first_head_is_the_main_one(make_network) -> None:
    made = make_network(awake=True)
    heads = {"organ": VectorHead(64, ["breast", "none"], plain=True), "cls_lung": made.heads["cls_lung"]}
    network = UPerConvNeXt(made.encoder, made.decoder, made.prompter, heads).eval()
    image, prompts = torch.rand(1, 3, 32, 64), (torch.zeros(1, 15), torch.ones(1, 15))
    first, second = (network.predict(image, prompt) for prompt in prompts)
    assert torch.equal(network(image, prompts[0]), first["organ"])
    assert torch.equal(first["organ"], second["organ"])  # no prompt tells the answer
    assert not torch.equal(first["cls_lung"], second["cls_lung"])
    assert "structures" not in network.network_config()


class Nameless(nn.Module):
    """A head whose rows are no names."""

    rows, reads_map, row_axes = ["$payload"], False, {}

    def forward(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        return feature


def test_heads_that_a_checkpoint_could_not_describe_are_refused(make_network) -> None:
    made = make_network()
    for heads, message in (
        ({}, "heads must hold at least one head, got none"),
        ({"seg": nn.Identity()}, "head must have rows, reads_map, row_axes, got Identity without rows, reads_map"),
        ({"odd": Nameless()}, "heads of a network must be a table of names and lists of 1 to 255 names, got .*payload"),
    ):
        with pytest.raises(ValueError, match=message):
            UPerConvNeXt(made.encoder, made.decoder, made.prompter, heads)
