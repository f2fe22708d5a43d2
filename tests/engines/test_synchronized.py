# SPDX-License-Identifier: Apache-2.0
"""Batch norm over several processes is that of one process with the joint batch, also where one has no mask."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from bundle.engines.synchronized import SynchronizedBatchNorm2d, synchronize

ROOT = Path(__file__).resolve().parents[2]

STEPS = """
import sys
import ignite.distributed as idist
import torch
import torch.distributed as dist
from monai.losses import DiceCELoss
from bundle.engines import TrainingNetwork, distributed_network
from bundle.networks import build_uperconvnext
from bundle.tasks import Masks, MultiTaskLoss, class_tasks
from bundle.vocabulary import Organs

out, masks = sys.argv[1], [int(text) for text in sys.argv[2].split(",")]  # of each process's 2 samples
torch.manual_seed(0)
organs = Organs({"breast": {"structures": ["lesion"], "classes": ["benign", "malignant"]}, "indis": {}})
network = build_uperconvnext(
    encoder="test_convnext", decoder_channels=16, structures=organs.structures, norm="batch", pooling="avg",
    label_sets=organs.label_sets, positions=organs.positions,
)
rows = 2 * len(masks)
batch = {
    "image": torch.rand(2, rows, 3, 64, 96, dtype=torch.float32),
    "label": torch.randint(0, 2, (2, rows, 1, 64, 96)),
    "labeled": torch.tensor([[i < count] * 2 for count in masks for i in range(2)]),
    "cls": torch.tensor([-1 if i < count else i % 2 for count in masks for i in range(2)]),
}
loss_of = MultiTaskLoss([Masks(organs, criterion=DiceCELoss(softmax=True, to_onehot_y=True)), *class_tasks(organs)])
own = slice(0, rows)
if sys.argv[3] == "several":
    dist.init_process_group("gloo")
    own = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    trained = distributed_network(network, device="cpu", amp=False)
else:
    trained = TrainingNetwork(network, device="cpu", amp=False)
optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
for step in range(2):
    optimizer.zero_grad()
    labeled, cls = batch["labeled"][own], batch["cls"][own]
    found = trained(batch["image"][step][own], None, labeled.any(1))
    masks = {"label": batch["label"][step][own], "labeled": labeled}
    loss = loss_of(found, {"targets": {"seg": masks, "cls_breast": cls}})
    loss.backward()
    optimizer.step()
if idist.get_rank() == 0:
    torch.save(network.state_dict(), out)
"""


def run(out: Path, masks: list[int], how: str) -> dict[str, torch.Tensor]:
    (out.parent / "steps.py").write_text(STEPS)
    command = [str(out.parent / "steps.py"), str(out), ",".join(map(str, masks)), how]
    if how == "several":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [f"--nproc_per_node={len(masks)}", f"--master_port={port}"]
        command = ["-m", "torch.distributed.run", *words, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    state: dict[str, torch.Tensor] = torch.load(out, weights_only=True)
    return state


@pytest.mark.parametrize("masks", [[2, 0], [0, 1], [1, 2]], ids=str)
def test_processes_equal_one_also_where_one_has_no_mask(tmp_path: Path, masks: list[int]) -> None:
    one, several = (run(tmp_path / f"{how}.pt", masks, how) for how in ("one", "several"))
    assert one["decoder.block.norm.num_batches_tracked"] == 2
    assert list(several) == list(one)
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_layers_are_replaced_and_keep_their_parameters() -> None:
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)
    module = synchronize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(norm)))
    (layer,) = [m for m in module.modules() if isinstance(m, SynchronizedBatchNorm2d)]
    assert (layer.eps, layer.momentum) == (1e-3, 0.3)
    assert layer.weight is norm.weight
    assert layer.running_var is norm.running_var
    assert sorted(layer.state_dict()) == sorted(norm.state_dict())
    assert synchronize(layer) is layer


def test_activations_of_timms_layers_stay() -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    names, image = list(network.state_dict()), torch.randn(2, 3, 64, 64)
    expected = network.eval()(image)
    several = synchronize(network.train()).eval()
    assert list(several.state_dict()) == names
    assert sum(isinstance(module, SynchronizedBatchNorm2d) for module in several.modules()) > 10
    assert torch.equal(several(image), expected)


def test_frozen_layers_in_evaluation_stay_what_they_are() -> None:
    network = timm.create_model("test_efficientnet").requires_grad_(False).eval()
    kinds = [type(module) for module in network.modules()]
    assert [type(module) for module in synchronize(network).modules()] == kinds


def test_other_kinds_are_named() -> None:
    class Another(nn.BatchNorm2d):
        act = nn.ReLU()

    with pytest.raises(ValueError, match="must be PyTorch's or timm's BatchNormAct2d, got Another"):
        synchronize(nn.Sequential(Another(4)))
