"""The bash completions that ship are those of the parsers, and bash completes with them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from deploy.make_completions import FOLDER, PARSERS, completion


@pytest.mark.parametrize("program", PARSERS)
def test_what_ships_is_what_the_parser_gives(program: str) -> None:
    shipped = (FOLDER / program).read_text()
    assert shipped == completion(PARSERS[program]()), "run: python -m deploy.make_completions"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("program", "words", "offered"),
    [
        ("edge-runtime", ["st"], ["status"]),
        ("edge-runtime", ["keys", ""], ["make", "show", "rotate", "switch"]),
        ("edge-runtime", ["doctor", "--no"], ["--no-server"]),
        ("cloud-server", ["devices", "re"], ["revoke"]),
    ],
)
def test_bash_completes(program: str, words: list[str], offered: list[str]) -> None:
    quoted = " ".join(f"'{word}'" for word in (program, *words))
    script = (
        f"source {FOLDER / program}; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; "
        f'_shtab_{program.replace("-", "_")}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered
