# SPDX-License-Identifier: Apache-2.0
"""The identity of a run holds every option that changes what it learns."""

import pytest

from tests.test_configs import CHAINS, READ_BY_MONAI, read


@pytest.mark.parametrize("name", ["train", "restore", "progressive unfreezing", "prompt tuning"])
def test_what_a_training_depends_on_is_in_its_identity(name: str) -> None:
    """Or resumed runs take another value in silence."""
    content = read(*CHAINS[name])
    plain = {id for id, value in content.items() if not isinstance(value, dict) or "_target_" not in value}
    plain -= {id for id in plain if "#" in id or id.endswith("_transforms") or id.startswith(("cache_", "labels_"))}
    assert plain - content["identity"]["options"].keys() - READ_BY_MONAI.keys() == {
        *(
            "bundle_root",
            "dataset_dir",
            "output_dir",
            "ckpt_dir",
            "ckpt_path",
            "phantom_patients",
        ),  # data by its content
        *("structures", "positions", "encoder", "decoder_channels", "conditioning", "norm", "pooling"),  # the network
        *("guidance_channels", "organ_points", "tasks", "network"),
        *("device", "num_workers", "num_threads", "resume", "allow_leaks", "short", "train", "validate"),
    }
