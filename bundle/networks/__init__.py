# SPDX-License-Identifier: Apache-2.0
from bundle.networks.build import build_uperconvnext
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.heads import build_heads
from bundle.networks.prompts import Prompter
from bundle.networks.pyramid import PyramidEncoder, build_encoder
from bundle.networks.uperconvnext import UPerConvNeXt
from bundle.networks.upernet import UPerNetDecoder

__all__ = [
    "ConvNeXtEncoder",
    "Prompter",
    "PyramidEncoder",
    "UPerConvNeXt",
    "UPerNetDecoder",
    "build_encoder",
    "build_heads",
    "build_uperconvnext",
]
