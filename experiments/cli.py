"""The command line that all experiments share: presets, flags, exit codes. Imports no JAX."""

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, OmitArgPrefixes

from experiments.config import Config, Options
from experiments.errors import ExperimentError, Interrupted, UsageError

T = TypeVar("T")
FAILED, WRONG_USAGE = 1, 2
AT_ONCE = "interrupted at once; what was saved before is kept."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of an experiment."""

    preset: str
    """Which configuration the options below change; it decides which options there are."""
    config: Config
    options: Options


def run_experiment(name: str, presets: Mapping[str, Config], doc: str | None, argv: list[str] | None = None) -> int:
    """Parses the command line of experiment `name`, trains, and returns the exit status.

    Args:
        name: of the data set and of the run's folder.
        presets: configurations by name, the first the default; flags override their fields.
        doc: shown by `--help`.
        argv: arguments, those of the process if None.

    Returns:
        0, 1 (failed), 2 (wrong usage), 130 or 143 (interrupted, can be resumed).
    """
    argv = sys.argv[1:] if argv is None else argv
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default=next(iter(presets)))
    try:
        preset = finder.parse_known_args(argv)[0].preset
    except SystemExit:  # --preset without a name, of which argparse has complained
        return WRONG_USAGE
    if preset not in presets:
        return _complain(f"--preset must be one of {', '.join(presets)}, got {preset!r}.", WRONG_USAGE)
    default = Command(preset=preset, config=presets[preset], options=Options())
    doc = f"{doc}\nPresets: {', '.join(presets)}. The options below are those of preset {preset}."

    def train(command: Command) -> None:
        from experiments.training.run import train  # here, so that --help needs no JAX

        workdir = command.options.workdir or Path("runs") / f"{name}-{preset}-seed{command.config.seed}"
        train(name, command.config, dataclasses.replace(command.options, workdir=workdir))

    return run_command(Command, train, f"experiments.{name}", doc, argv, default)


def run_command(
    command: type[T],
    action: Callable[[T], None],
    program: str,
    doc: str | None,
    argv: list[str] | None = None,
    default: T | None = None,
) -> int:
    """Parses `argv` into a `command` dataclass, carries out `action`, and returns the exit status.

    Errors that a person can mend are one line on standard error; any other error is a bug and shows its traceback.
    """
    kwargs: dict[str, Any] = {} if default is None else {"default": default}
    try:
        try:
            parsed = tyro.cli(
                command,
                prog=f"python -m {program}",
                description=doc,
                args=argv,
                config=(OmitArgPrefixes, AvoidSubcommands),  # flat names; the default chooses the member of a union
                **kwargs,
            )
        except SystemExit as exit:  # --help, or a complaint, that of a dataclass which refuses a value included
            sys.stdout.flush()
            return int(exit.code or 0)
        action(parsed)
        sys.stdout.flush()
    except ExperimentError as error:
        return _complain(str(error), WRONG_USAGE if isinstance(error, UsageError) else FAILED)
    except BrokenPipeError:  # whoever read standard output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a full disk, a folder without permission, a folder where a file should be
        return _complain(f"{error.filename or 'input or output'}: {error.strerror or error}", FAILED)
    except Interrupted as stop:
        print(str(stop), file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print(AT_ONCE, file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def printable(text: str) -> str:
    """Text for a terminal: what would move its cursor or is no character is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def main(run: Callable[..., int], *args: Any) -> NoReturn:
    """The whole process of a command: `run(*args)`, whose result is the exit status.

    Ctrl-C ends it at once with status 130, unless the training loop has taken the signal over. An exception would not
    do: callbacks of JAX swallow some, and threads of JAX may crash while the interpreter ends.
    """
    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        status = run(*args)
    finally:
        signal.signal(signal.SIGINT, before)
    if status >= 128:
        _end(status)
    raise SystemExit(status)


def _end(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, RuntimeError):  # a signal may come while a stream is being written to
            stream.flush()
    os._exit(status)


def _interrupted(signum: int, frame: Any) -> NoReturn:
    os.write(2, f"{AT_ONCE}\n".encode())  # the stream may be in the middle of a line
    _end(128 + signum)


def _complain(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
