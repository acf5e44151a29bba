"""The benchmarks behind every published number: one folder per subject, each with its peer in the same run.

Run a subject from the repository's folder: ``python -m benchmarks.SUBJECT``.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository's folder, in which every benchmark runs."""
