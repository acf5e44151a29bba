"""The randomised attacker for a few seconds: nobody dies, and nobody hears what is not for him."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


@pytest.mark.slow
def test_a_randomised_attacker_with_allowed_keys_ends_no_program_and_hears_nobody_elses_answer():
    command = [sys.executable, str(RUN), "--safety", "--seconds", "16", "--phase-s", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    told = done.stdout + done.stderr
    assert done.stdout.startswith("seed "), told
    result = json.loads(done.stdout.splitlines()[-1])
    assert [claim for claim in result["claims"] if not claim["holds"]] == [], told
    assert sum(result["attacks"].values()) >= 5, told
    assert result["polite"]["answered"] > 0, told
    assert done.returncode == 0
