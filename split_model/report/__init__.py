"""A run's log as one self-contained page. Belongs to the workstation; neither program imports it."""

from __future__ import annotations

from split_model.report.page import write_report
from split_model.report.summary import summarise

__all__ = ["summarise", "write_report"]
