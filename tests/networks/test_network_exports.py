# SPDX-License-Identifier: Apache-2.0
import onnxruntime
import pytest
import torch
from torch import Tensor, nn


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("conditioning", ["film", "additive", "none"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_scripted_network_equals_eager(make_network, conditioning, norm):
    network = make_network(awake=True, conditioning=conditioning, norm=norm).eval()
    scripted = torch.jit.script(network)
    for image, prompt in [(torch.randn(1, 3, 32, 64), None), (torch.randn(2, 3, 96, 64), torch.rand(2, 15))]:
        torch.testing.assert_close(scripted(image, prompt), network(image, prompt))
        expected = network.predict(image, prompt)
        torch.testing.assert_close(scripted.predict(image, prompt), expected)
        levels, feature, plain = scripted.encode(image, prompt)
        torch.testing.assert_close(scripted.answer(scripted.decode(levels), feature, plain), expected)
        lung = scripted.predict(image, prompt, ["cls_lung"])
        torch.testing.assert_close(lung, {"cls_lung": expected["cls_lung"]})
    assert scripted.train()(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(torch.jit.Error, match="multiples of 32, got 250x224; pad to 256x224"):
        scripted(torch.zeros(1, 3, 250, 224))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripted_network_with_guidance_equals_eager_with_and_without_it(make_network):
    network = make_network(awake=True, guidance_channels=2).eval()
    torch.nn.init.normal_(network.encoder.backbone.stem_0.guidance.weight)
    scripted, prompt = torch.jit.script(network), torch.rand(2, 15)
    for channels in (3, 5, 3):
        image = torch.randn(2, channels, 64, 96)
        torch.testing.assert_close(scripted(image, prompt), network(image, prompt))
        torch.testing.assert_close(scripted.predict(image, prompt), network.predict(image, prompt))
    assert not torch.allclose(scripted(torch.randn(1, 5, 32, 32)), scripted(torch.randn(1, 5, 32, 32)[:, :3]))
    with pytest.raises(
        torch.jit.Error, match=r"\(batch, 3, height, width\) or \(batch, 5, height, width\) with guidance"
    ):
        scripted(torch.zeros(1, 4, 32, 32))


class AllHeads(nn.Module):
    """What an ONNX file can hold: tensors in, a tuple of tensors out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, prompt: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.predict(image, prompt).values())


@pytest.mark.parametrize("channels", [3, 5])
def test_onnx_equals_eager_at_other_sizes_and_batches(make_network, tmp_path, channels):
    """A file holds the network with guidance or without it: the number of channels is fixed there."""
    guided = make_network(awake=True, guidance_channels=2)
    torch.nn.init.normal_(guided.encoder.backbone.stem_0.guidance.weight)
    network = AllHeads(guided).eval()
    dynamic = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        network,
        (torch.randn(2, channels, 64, 96), torch.rand(2, 15)),
        tmp_path / "network.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes={"image": {0: dynamic, 2: dynamic, 3: dynamic}, "prompt": {0: dynamic}},
    )
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for batch, height, width in [
        (1, 32, 32),
        (3, 224, 160),
    ]:  # 7 and 5 rows in stage 4: only pooling bin 1 divides them
        image, prompt = torch.randn(batch, channels, height, width), torch.rand(batch, 15)
        outputs = session.run(None, {"image": image.numpy(), "prompt": prompt.numpy()})
        for got, expected in zip(outputs, network(image, prompt), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-5, rtol=1e-4)
