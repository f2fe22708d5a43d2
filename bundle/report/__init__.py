# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves behind: tables, a summary and pictures of predictions beside the truth."""

from bundle.report.handlers import ContactSheet, EvaluationReport
from bundle.report.interaction import InteractionReport, InteractionTrials
from bundle.report.pictures import Case, draw_cases
from bundle.report.tables import results_markdown

__all__ = [
    "Case",
    "ContactSheet",
    "EvaluationReport",
    "InteractionReport",
    "InteractionTrials",
    "draw_cases",
    "results_markdown",
]
