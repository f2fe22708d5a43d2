# SPDX-License-Identifier: Apache-2.0
"""A full training step: images per second and peak memory, as shipped and in the reference's order of work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import list_data_collate
from torch import Tensor, nn

from bundle.engines import TrainingNetwork
from bundle.tasks import Targetsd, Task
from bundle.tasks.targets import mapped
from scripts.benchmarks.interleave import Options, Part, interleave

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {"compact": ("train.yaml",), "paper": ("train.yaml", "paper.yaml")}
BATCH, SIDE = 16, 224

Batch = tuple[Tensor, Tensor, dict[str, Any]]
"""Images (16, C, 224, 224), prompts (16, P), what ``bundle.tasks.MultiTaskLoss`` takes."""

NOTE = (
    "Forward, loss, backward and optimizer on 16 images of 224 x 224 px. Shipped: half of the batch has masks, half "
    "has classes; channels last, bfloat16 where the CPU has it, the decoder for images with a mask alone; gradient "
    "clipping and averaged weights on top. Reference order: eager float32, NCHW, a batch of masks and a batch of "
    "classes in turns, the decoder for all images, images as (B, 1, H, W, C); without the reference's 29 million "
    "unused parameters, which would cost memory. Each way has a process of its own; memory is what the "
    "process grew by, at its peak, from before the network was built."
)


def read_config(kind: str, **changes: Any) -> ConfigParser:
    """The shipped config of the compact or the paper's network, on the CPU."""
    files = [str(ROOT / "configs" / name) for name in CONFIGS[kind]]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update({"bundle_root": str(ROOT), "device": "cpu", **changes})
    return parser


@dataclass
class Training:
    """What a config builds for training: tasks, network, loss, optimizer, averaged weights, largest gradient norm."""

    tasks: list[Task]
    network: Any
    loss: Any
    optimizer: Any
    average: Any
    max_norm: float

    @classmethod
    def from_config(cls, kind: str, *, seed: int, **changes: Any) -> Training:
        """The compact or the paper's network with random weights, and its recipe."""
        parser = read_config(kind, **changes)
        torch.manual_seed(seed)
        names = ("declared", "network", "loss", "optimizer", "average", "max_norm")
        return cls(*(parser.get_parsed_content(name) for name in names))

    def step(self, forward: Callable[[], dict[str, Tensor]], target: dict[str, Any], *, plain: bool = False) -> float:
        """The loss of one batch, after one step of the optimizer; ``plain``: no clipping, no averaged weights."""
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.loss(forward(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        if not plain:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        self.optimizer.step()
        if not plain:
            self.average.update_parameters(self.network)
        return loss.item()


def made_up_batch(network: Any, tasks: list[Task], *, with_mask: int, seed: int) -> Batch:
    """Random images, prompts and targets; the first ``with_mask`` have a structure, the others a class."""
    config = network.network_config()
    random = torch.Generator().manual_seed(seed)
    structures, sets = len(config["structures"]), list(config["label_sets"])
    channels = network.in_channels + network.guidance_channels
    targets_of, samples = Targetsd(tasks), []
    for i in range(BATCH):
        label, labeled, name = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8), [False] * structures, sets[i % len(sets)]
        if i < with_mask:
            structure = 1 + i % (structures - 1)
            labeled[0] = labeled[structure] = True
            label[0, SIDE // 4 : SIDE // 2, SIDE // 3 : -SIDE // 4] = structure
        classes = {} if i < with_mask else {name: i % len(config["label_sets"][name])}
        samples.append(targets_of({"label": label, "labeled": labeled, "classes": classes})["targets"])
    prompt = torch.zeros(BATCH, network.prompt_length)
    prompt[:, 0] = 1.0
    image = torch.randn(BATCH, channels, SIDE, SIDE, generator=random)
    return image, prompt, {"targets": list_data_collate(samples)}


def shipped(kind: str, *, seed: int, amp: bool = True) -> Callable[[], None]:
    """One step as configs/train.yaml makes it, with 8 masks and 8 classes."""
    made = Training.from_config(kind, seed=seed)
    network = TrainingNetwork(made.network, device="cpu", amp=amp).train()
    image, prompt, target = made_up_batch(made.network, made.tasks, with_mask=BATCH // 2, seed=seed)
    rows = mapped(made.tasks, target["targets"], BATCH)

    def step() -> None:
        made.step(lambda: network(image, prompt, rows), target)

    return step


def reference_order(kind: str, *, seed: int) -> Callable[[], None]:
    """Two steps as the reference's authors order the work: one on 16 masks, one on 16 classes."""
    made = Training.from_config(kind, seed=seed)
    network = made.network.train()
    batches = [made_up_batch(network, made.tasks, with_mask=count, seed=seed) for count in (BATCH, 0)]
    images = [image.permute(0, 2, 3, 1)[:, None].contiguous() for image, _, _ in batches]

    def forward(image: Tensor, prompt: Tensor, masks: int) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = network.predict(image.squeeze(1).permute(0, 3, 1, 2), prompt)
        return {**outputs, **{name: outputs[name][:masks] for name in network.map_heads}}

    def step() -> None:
        for image, (_, prompt, target), masks in zip(images, batches, (BATCH, 0), strict=True):
            made.step(lambda i=image, p=prompt, m=masks: forward(i, p, m), target, plain=True)  # type: ignore[misc]

    return step


WAYS: dict[str, tuple[Callable[..., Callable[[], None]], dict[str, Any], int]] = {
    "reference order": (reference_order, {}, 2 * BATCH),
    "shipped, float32": (shipped, {"amp": False}, BATCH),
    "shipped": (shipped, {}, BATCH),
}
"""Name -> what builds the way, its options, images in one call."""


class Worker:
    """A way in a process of its own, which does one call whenever it is told to."""

    def __init__(self, kind: str, way: str, *, seed: int) -> None:
        arguments = [kind, way, str(seed), str(torch.get_num_threads())]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmarks.training", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.peak = 0.0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def call(self) -> None:
        """Does one unit of work; ``peak`` is then the process's peak of memory so far, in GB.

        Raises:
            RuntimeError: when the process ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the process of a training step must answer, but it ended with {self.process.wait()}; "
                f"see why with: {' '.join(map(str, self.process.args))} < /dev/zero."  # type: ignore[arg-type]
            )
        self.peak = float(answer)


def measure(options: Options) -> Part:
    """Steps of both networks, each in all ways, in turns."""
    rows = []
    for kind in CONFIGS:
        with ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(kind, name, seed=options.seed)) for name in WAYS}
            times = interleave({name: w.call for name, w in workers.items()}, rounds=2 if options.quick else 7)
            peaks = {name: worker.peak for name, worker in workers.items()}
        rates = {name: WAYS[name][2] / time.median for name, time in times.items()}
        for name in WAYS:
            low, high = (WAYS[name][2] / value for value in (times[name].high, times[name].low))
            rows.append(
                {
                    "network": kind,
                    "way": name,
                    "images/s": rates[name],
                    "quartiles": f"{low:.3g} to {high:.3g}",
                    "times reference": rates[name] / rates["reference order"],
                    "peak memory, GB": peaks[name],
                }
            )
    return Part("Training step", NOTE, rows, {"batch": BATCH, "side": SIDE})


def memory(kind: str) -> float:
    """GB of this process's memory: ``VmRSS`` now, ``VmHWM`` at most (the peak in ``getrusage`` includes its parent's).

    Raises:
        RuntimeError: when the system does not tell.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"{status} must have a line {kind}, found none; measure peak memory on Linux.")


def work(kind: str, way: str, seed: str, threads: str) -> None:
    """What the worker's process does: one call for each line that it reads."""
    torch.set_num_threads(int(threads))
    build, changes, _ = WAYS[way]
    before = memory("VmRSS")
    step = build(kind, seed=int(seed), **changes)
    for _ in sys.stdin:
        step()
        print(memory("VmHWM") - before, flush=True)


if __name__ == "__main__":
    work(*sys.argv[1:])
