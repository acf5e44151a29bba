"""The shared frame of all programs: usage errors, one-line errors with exit codes, logs on stderr.

Data goes to stdout, everything else to stderr. Under systemd each log line carries its priority, so that the
journal can filter by it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from split_model.errors import SplitModelError, UsageError
from split_model.service.terminal_text import columns, fold
from split_model.service.throttle import Throttle

#: Python's text of the RuntimeError if there is no memory for a thread's stack.
_NO_THREAD = "can't start new thread"
_MORE_MEMORY = "stop other programs, use a smaller model, or raise the memory limit of this one"
#: Exit codes of a program that ended because its output is no longer read (as if by SIGPIPE), or by Ctrl-C.
_BROKEN_PIPE = 128 + 13
_INTERRUPTED = 128 + 2

#: Bits that are always set in the umask: other users may never write to a program's files.
_LEAST_UMASK = 0o022
#: The width of a log line's time and level.
_LOG_INDENT = 17
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


class _Help(argparse.RawDescriptionHelpFormatter):
    """Folds the prose of descriptions at the terminal's width; indented lines, as commands are, stay as they are.

    Where a command and the words behind it do not fit into one line, the words come closer, or stand below.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        prose: list[str] = []
        for line in [*text.strip("\n").split("\n"), ""]:
            if line and not line.startswith(" "):
                prose.append(line)
                continue
            if prose:
                lines.append(fold(" ".join(prose), width))
                prose = []
            command, _, words = line.lstrip(" ").partition("  ")
            if len(line) > width and words:
                close = f"  {command}  {words.strip()}"
                lines += [close] if len(close) <= width else [f"  {command}", f"      {words.strip()}"]
            else:
                lines.append(line)
        return "".join(f"{indent}{line}\n" for line in "\n".join(lines).rstrip("\n").split("\n"))


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` (exit 64) where argparse would exit with 2."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("formatter_class", _Help)
        super().__init__(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Called by argparse for invalid arguments."""
        raise UsageError(message, remedy=f"see '{self.prog} --help'")


class _Formatter(logging.Formatter):
    """Formats a record as one line, except tracebacks: a peer's text cannot forge lines or control a terminal.

    On a terminal a long line is folded, under its own text.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        return _printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        width = columns(sys.stderr)
        return "\n".join(
            fold(_printable(line), width, indent=_LOG_INDENT) for line in super().format(record).split("\n")
        )


class _JournalFormatter(_Formatter):
    """Puts ``<N>`` before a line, which the journal reads as its priority; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def set_up_logging(*, verbose: bool = False) -> None:
    """Send the log to stderr: with a time on a terminal, with a priority under systemd."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    handler.addFilter(Throttle())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)


def run_main(prog: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, run the command's ``func(args)``, and return the exit code.

    A `SplitModelError` becomes one line ``PROG: error: ...`` and its own exit code; too little memory has exit code
    71. The option ``verbose``, if the parser has it, turns on debug messages and tracebacks of such errors.
    ``func`` returns an exit code or None for 0; a command line without a command prints the help (exit 64).
    """
    verbose = False
    os.umask(os.umask(_LEAST_UMASK) | _LEAST_UMASK)
    try:
        args = parser.parse_args(argv)
        verbose = bool(getattr(args, "verbose", False))
        set_up_logging(verbose=verbose)
        if not hasattr(args, "func"):
            parser.print_help(sys.stderr)
            return os.EX_USAGE
        code: int | None = args.func(args)
        sys.stdout.flush()
    except SplitModelError as error:
        logging.getLogger(prog).debug("the traceback behind this error", exc_info=True)
        line = " ".join(str(error).split())
        # Names from a foreign file must not control the terminal.
        _print_error(prog, line)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes stdout once more at exit; redirect that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        line, failed = _of_the_machine(error)
        if not line:
            raise
        logging.getLogger(prog).debug("the traceback behind this error", exc_info=True)
        _print_error(prog, line)
        return failed
    return code or 0


def _of_the_machine(error: Exception) -> tuple[str, int]:
    """The line and exit code of an error with a possible cause in the machine; an empty line for others."""
    text = " ".join(str(error).split())
    # A library that does not fit into memory, or is damaged; ctypes raises an OSError without a number.
    if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is None):
        return f"{text}; {_MORE_MEMORY}, or install it again", os.EX_OSERR
    if isinstance(error, MemoryError) or text == _NO_THREAD:
        return f"not enough memory; {_MORE_MEMORY}", os.EX_OSERR
    if isinstance(error, OSError):  # a failing disk or device that the program needs
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or text}", os.EX_IOERR
    return "", os.EX_SOFTWARE


def _print_error(prog: str, line: str) -> None:
    print(fold(f"{prog}: error: {_printable(line)}", columns(sys.stderr), indent=2), file=sys.stderr)


def _printable(line: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in line)
