"""A run's log as one self-contained page. Belongs to the workstation; neither program imports it."""

from __future__ import annotations

from split_model.report.summary import summarise
from split_model.report.write import write_report

__all__ = ["summarise", "write_report"]
