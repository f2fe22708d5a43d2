# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bundle.engines.runtimes import openvino_core
from bundle.networks import UPerConvNeXt
from bundle.networks.deployable import deployable

SIZES = [(1, 32, 32), (3, 224, 160)]  # 7 and 5 rows in stage 4: only pooling bin 1 divides them


@pytest.fixture
def trained(make_network: Callable[..., UPerConvNeXt]) -> Callable[..., UPerConvNeXt]:
    """A network as after a training: no parameter and no statistic is at its start."""

    def make(**changes: object) -> UPerConvNeXt:
        network = make_network(awake=True, **changes).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.ndim == 1 or "guidance" in name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            for layer in network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_(std=0.2)
                    layer.running_var.uniform_(0.5, 2.0)
        return network

    return make


def assert_same(got: tuple[Tensor, ...] | list[Tensor], expected: dict[str, Tensor]) -> None:
    for value, wanted in zip(got, expected.values(), strict=True):
        torch.testing.assert_close(value, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("conditioning", ["film", "additive", "none"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_outputs_are_those_of_predict(trained, norm, conditioning):
    network = trained(norm=norm, conditioning=conditioning)
    rewritten = deployable(network)
    assert rewritten.input_names == ["image", "prompt"]
    assert rewritten.output_names == list(network.predict(torch.zeros(1, 3, 32, 32)))
    for batch, height, width in SIZES:
        image, prompt = torch.randn(batch, 3, height, width), torch.rand(batch, 15)
        assert_same(rewritten(image, prompt), network.predict(image, prompt))


@pytest.mark.parametrize("encoder", ["convnext_atto_ols", "convnext_atto_rms", "convnextv2_atto"])
def test_outputs_are_those_of_predict_with_stems_norms_and_blocks_of_other_kinds(trained, encoder):
    network = trained(encoder=encoder, pooling="avg")
    image, prompt = torch.randn(2, 3, 64, 32), torch.rand(2, 15)
    assert_same(deployable(network)(image, prompt), network.predict(image, prompt))


def test_guidance_acts(trained):
    network, prompt = trained(guidance_channels=2), torch.rand(2, 15)
    image = torch.randn(2, 5, 64, 96)
    assert_same(deployable(network)(image, prompt), network.predict(image, prompt))
    assert not torch.allclose(network(image, prompt), network(image[:, :3], prompt))


def test_only_what_is_asked_for_is_computed(trained):
    network = trained()
    image, prompt = torch.randn(1, 3, 64, 64), torch.rand(1, 15)
    expected = network.predict(image, prompt)
    lung = deployable(network, heads=["cls_lung"])
    assert lung.output_names == ["cls_lung"]
    assert_same(lung(image, prompt), {"cls_lung": expected["cls_lung"]})
    assert lung.decoder is None
    mask = deployable(network, heads=["seg"])
    assert mask.output_names == ["seg"]
    assert_same(mask(image, prompt), {"seg": expected["seg"]})
    swapped = deployable(network, heads=["seg", "cls_lung", "cls_breast"])
    assert swapped.output_names == ["seg", "cls_lung", "cls_breast"]
    assert_same(swapped(image, prompt), {name: expected[name] for name in swapped.output_names})


def test_what_cannot_be_asked_for_is_told(make_network):
    for asked in (["cls_lung", "liver"], []):
        with pytest.raises(ValueError, match=r"heads must be among \['seg', 'cls_breast', 'cls_lung'\], got \["):
            deployable(make_network(), heads=asked)


def test_the_network_stays_as_it_is(trained):
    network = trained(norm="batch", guidance_channels=2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rewritten = deployable(network)
    for parameter in rewritten.parameters():
        assert not parameter.requires_grad
        parameter.zero_()
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in rewritten.modules())


def test_batch_normalization_is_folded_and_the_fusion_runs_before_the_upsampling(trained):
    network = trained(norm="batch")
    rewritten = deployable(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in rewritten.modules())
    parts = [part.in_channels for part in rewritten.decoder.parts]
    assert parts == [16, 16, 16, 16]
    sizes: list[int] = []
    for part in rewritten.decoder.parts:
        part.register_forward_hook(lambda module, given, result: sizes.append(result.shape[-1]))
    with FlopCounterMode(display=False) as counter:
        rewritten(torch.zeros(1, 3, 64, 64), torch.zeros(1, 15))
    assert sizes == [16, 8, 4, 2]
    # fusion of 64 to 16 channels: at 16x16 all of it, or a quarter of it at each size; a multiply-add counts two
    counts = counter.get_flop_counts()["DeployableNetwork.decoder.parts.0"]
    assert counts == {torch.ops.aten.convolution: 2 * 16 * 16 * 256}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_traced_onnx_and_openvino_models_are_right_at_other_sizes_and_batches(trained, norm):
    openvino = pytest.importorskip("openvino")
    network = trained(norm=norm, guidance_channels=2)
    rewritten = deployable(network)
    example = (torch.randn(2, 5, 64, 96), torch.rand(2, 15))
    traced = torch.jit.trace(rewritten, example)
    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        rewritten,
        example,
        dynamo=True,
        verbose=False,
        dynamic_shapes={"image": {0: free, 2: free, 3: free}, "prompt": {0: free}},
    )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    shapes = [("image", [-1, 5, -1, -1]), ("prompt", [-1, 15])]
    model = openvino.convert_model(traced, example_input=example, input=shapes)
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch, height, width in SIZES:
        image, prompt = torch.randn(batch, 5, height, width), torch.rand(batch, 15)
        expected = network.predict(image, prompt)
        assert_same(traced(image, prompt), expected)
        arrays = {"image": image.numpy(), "prompt": prompt.numpy()}
        assert_same([torch.from_numpy(a) for a in session.run(None, arrays)], expected)
        found = compiled(list(arrays.values()))
        assert_same([torch.from_numpy(np.array(found[i])) for i in range(3)], expected)
