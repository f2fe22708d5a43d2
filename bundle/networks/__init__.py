# SPDX-License-Identifier: Apache-2.0
from bundle.networks.build import build_uperconvnext
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.networks.heads import build_heads
from bundle.networks.prompts import Prompter
from bundle.networks.uperconvnext import UPerConvNeXt
from bundle.networks.upernet import UPerNetDecoder

__all__ = ["ConvNeXtEncoder", "Prompter", "UPerConvNeXt", "UPerNetDecoder", "build_heads", "build_uperconvnext"]
