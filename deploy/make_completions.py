"""Writes the bash completions in ``completions`` from the parsers: ``python -m deploy.make_completions``."""

from __future__ import annotations

from pathlib import Path

import shtab

from cloud_server import cli as server
from edge_runtime import cli as device
from split_model.command_line import Parser

FOLDER = Path(__file__).parent / "completions"
PARSERS = {"edge-runtime": device.make_parser, "cloud-server": server.make_parser}


def completion(parser: Parser) -> str:
    """Make a completion script for bash; options with a file complete file names."""
    _complete_files(parser)
    return str(shtab.complete(parser, shell="bash"))  # noqa: S604  the name of a shell, none is run


def _complete_files(parser: Parser) -> None:
    for action in parser._actions:  # noqa: SLF001  argparse has no other way to walk a parser
        if action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        for child in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            _complete_files(child)


if __name__ == "__main__":
    for name, make in PARSERS.items():
        (FOLDER / name).write_text(completion(make()), encoding="utf-8")
