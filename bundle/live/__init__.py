# SPDX-License-Identifier: Apache-2.0
"""Live ultrasound: frames of a stream in, masks and classes out; see docs/live.md."""

from bundle.live.outputs import check_outputs
from bundle.live.pictures import Frame, Picture, Result
from bundle.live.report import LiveReport, as_text
from bundle.live.run import RunOptions, run_live
from bundle.live.segmenter import FrameSegmenter, Letterbox
from bundle.live.settings import build_segmenter
from bundle.live.sources import Source, blank, open_source, play
from bundle.live.stream import Stream
from bundle.live.vote import TemporalVote

__all__ = [
    "Frame",
    "FrameSegmenter",
    "Letterbox",
    "LiveReport",
    "Picture",
    "Result",
    "RunOptions",
    "Source",
    "Stream",
    "TemporalVote",
    "as_text",
    "blank",
    "build_segmenter",
    "check_outputs",
    "open_source",
    "play",
    "run_live",
]
