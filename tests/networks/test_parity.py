# SPDX-License-Identifier: Apache-2.0
"""The paper network's arithmetic against logits of the authors' network (see the folder's own description)."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.networks import build_uperconvnext
from bundle.networks.conversion import authors_arguments, convert_authors

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reference():
    folder = Path(os.environ.get("ULTRASOUND_DATA", ROOT.parent / "shared" / "ultrasound")).parent / "reference"
    file = folder / "reference_weights.py"
    if not file.is_file():
        pytest.skip(f"the authors' logits are not at {folder}")
    spec = importlib.util.spec_from_file_location("reference_weights", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return folder, module


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_converted_checkpoint_gives_the_authors_logits(reference, prompted, order):
    folder, module = reference
    state = module.reference_state_dict(folder / "keys.json", prompt=prompted)
    state = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    network = build_uperconvnext(**authors_arguments(state)).eval()
    mean, std = network.encoder.mean, network.encoder.std
    values, prompts = module.reference_inputs(224, 224, batch=2)
    image = torch.from_numpy(values).permute(0, 3, 1, 2)  # BGR in [0, 1]
    prompt = torch.from_numpy(np.concatenate(list(prompts.values()), axis=1))
    if order == "rgb":
        image = (image.flip(1) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        converted = convert_authors(state, network, path="reference", mean=mean, std=std)
    else:
        converted = convert_authors(state, network, path="reference", mean=None, std=None)
    assert len(converted.taken) == len(network.state_dict()) == (281 if prompted else 266)
    assert len(converted.ignored) == 184  # a second ConvNeXt and a 1000-way head
    assert converted.untouched == []

    network.load_state_dict(converted.state)
    with torch.no_grad():
        logits = network.predict(image, prompt)
    expected = np.load(folder / ("parity.npz" if prompted else "parity_noprompt.npz"))
    for ours, theirs in {"seg": "seg", "cls_two": "cls2", "cls_four": "cls4"}.items():
        np.testing.assert_allclose(logits[ours].numpy(), expected[theirs], atol=1e-4, rtol=0, err_msg=ours)
