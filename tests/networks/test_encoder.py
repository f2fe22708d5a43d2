# SPDX-License-Identifier: Apache-2.0
import pytest
import timm
import torch

from bundle.networks.encoder import ConvNeXtEncoder, DepthwiseConv2d, GuidedStem


@pytest.mark.parametrize("name", ["test_convnext", "convnext_atto", "convnextv2_atto", "convnext_atto_ols"])
def test_levels_are_the_raw_stage_outputs_and_feature_is_the_normalized_mean(name):
    encoder = ConvNeXtEncoder(name).eval()
    image = torch.randn(2, 3, 64, 96)
    levels, feature = encoder(image)
    assert [tuple(level.shape) for level in levels] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, [4, 8, 16, 32], strict=True)
    ]
    mean = levels[3].mean((2, 3))
    expected = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_timm_weights_give_timms_features(name, tmp_path):
    theirs = timm.create_model(name, pretrained=False).eval()
    torch.nn.init.normal_(theirs.head.norm.weight)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    encoder = ConvNeXtEncoder(name, weights_file=str(tmp_path / "timm.pth")).eval()
    image = torch.randn(2, 3, 64, 32)
    levels, feature = encoder(image)
    expected = theirs.forward_features(image)
    torch.testing.assert_close(levels[3], expected)
    torch.testing.assert_close(feature, theirs.forward_head(expected, pre_logits=True))


@pytest.mark.parametrize(("pooling", "share_of_maximum"), [("avg", 0.0), ("avgmax", 0.5)])
def test_the_feature_is_the_normalized_pooled_last_stage(pooling, share_of_maximum):
    encoder = ConvNeXtEncoder("test_convnext", pooling=pooling).eval()
    levels, feature = encoder(torch.randn(2, 3, 64, 96))
    mean, maximum = levels[3].mean((2, 3)), levels[3].flatten(2).max(2).values
    expected = (1 - share_of_maximum) * mean + share_of_maximum * maximum
    torch.testing.assert_close(feature, torch.nn.functional.layer_norm(expected, expected.shape[1:], eps=1e-6))


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling must be one of avg, avgmax, got 'max'"):
        ConvNeXtEncoder("test_convnext", pooling="max")


@pytest.mark.parametrize("name", ["resnet18", "hf_hub:timm/convnext_atto", "convnext", ""])
def test_names_that_are_no_convnext_are_refused(name):
    with pytest.raises(ValueError, match=f"timm's ConvNeXt names.*got '{name}'; list them with: python -c"):
        ConvNeXtEncoder(name)


def test_pretrained_tag_chooses_the_normalization():
    assert ConvNeXtEncoder("test_convnext").mean == (0.5, 0.5, 0.5)
    assert ConvNeXtEncoder("convnext_atto").std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("bias", [True, False])
def test_guided_stem_adds_the_guidance_to_the_image(bias):
    image = torch.nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1, bias=bias)
    stem = GuidedStem(image, 2)
    torch.nn.init.normal_(stem.guidance.weight)
    both = torch.randn(2, 5, 16, 12)
    weight = torch.cat([image.weight, stem.guidance.weight], 1)
    expected = torch.nn.functional.conv2d(both, weight, image.bias, stride=2, padding=1)
    torch.testing.assert_close(stem(both), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stem(both[:, :3]), image(both[:, :3]))


@pytest.mark.parametrize("name", ["test_convnext", "convnextv2_atto", "convnext_atto_ols"])
def test_untrained_guidance_changes_no_bit(name):
    encoder = ConvNeXtEncoder(name, guidance_channels=2).eval()
    image = torch.randn(2, 3, 64, 96)
    levels, feature = encoder(image)
    for guidance in (torch.zeros(2, 2, 64, 96), torch.rand(2, 2, 64, 96)):
        guided_levels, guided_feature = encoder(torch.cat([image, guidance], 1))
        assert all(torch.equal(*pair) for pair in zip(guided_levels, levels, strict=True))
        assert torch.equal(guided_feature, feature)


def test_trained_guidance_acts_where_it_is():
    encoder = ConvNeXtEncoder("test_convnext", guidance_channels=2).eval()
    torch.nn.init.normal_(encoder.backbone.stem_0.guidance.weight)
    guided = torch.cat([torch.randn(1, 3, 64, 96), torch.zeros(1, 2, 64, 96)], 1)
    stem = encoder.backbone.stem_0
    before = stem(guided)
    guided[0, 4, 8:12, 20:24] = 1  # one patch of the 4 x 4 convolution
    changed = (stem(guided) != before).any(1)[0]
    assert changed.nonzero().tolist() == [[2, 5]]
    assert not torch.equal(encoder(guided)[1], encoder(guided[:, :3])[1])


def test_guidance_is_learned():
    encoder = ConvNeXtEncoder("test_convnext", guidance_channels=2)
    levels, feature = encoder(torch.rand(1, 5, 64, 64))
    (sum(level.square().mean() for level in levels) + feature.square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_depthwise_convolutions_train_in_float32_under_autocast():
    torch.manual_seed(0)
    encoder = ConvNeXtEncoder("test_convnext").train()
    conv = encoder.backbone.stages_0.blocks[0].conv_dw
    assert isinstance(conv, DepthwiseConv2d)
    image = torch.randn(2, conv.in_channels, 9, 8, requires_grad=True)
    expected = torch.nn.functional.conv2d(image, conv.weight, conv.bias, padding=3, groups=conv.in_channels)
    seed = torch.randn_like(expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv(image)
        low = conv(image.bfloat16())
    assert found.dtype == low.dtype == torch.float32
    torch.testing.assert_close(low, expected, atol=2e-2, rtol=1e-2)
    given = (image, conv.weight, conv.bias)
    for got, wanted in zip(
        torch.autograd.grad(found, given, seed), torch.autograd.grad(expected, given, seed), strict=True
    ):
        torch.testing.assert_close(got, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv.eval()(image).dtype == torch.bfloat16


def test_a_seed_gives_timms_random_weights():
    torch.manual_seed(3)
    theirs = timm.create_model("test_convnext", features_only=True, out_indices=(0, 1, 2, 3))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    ours = ConvNeXtEncoder("test_convnext")
    assert torch.equal(torch.rand(1), drawn)
    for name, value in theirs.state_dict().items():
        assert name.endswith("gamma") or torch.equal(ours.backbone.state_dict()[name], value), name
