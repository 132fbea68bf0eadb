"""The command line that all experiments share: presets, flags, exit codes. Imports no JAX."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tyro

from experiments.config import Command, Config, Options
from experiments.errors import ExperimentError, Interrupted

T = TypeVar("T")
FAILED, WRONG_USAGE = 1, 2


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
    preset = finder.parse_known_args(argv)[0].preset
    if preset not in presets:
        return _complain(f"--preset must be one of {', '.join(presets)}, got {preset!r}.", WRONG_USAGE)
    default = Command(preset=preset, config=presets[preset], options=Options())
    doc = f"{doc}\nPresets: {', '.join(presets)}. The defaults below are those of preset {preset}."

    def train(command: Command) -> None:
        from experiments.run import train  # here, so that --help needs no JAX

        workdir = command.options.workdir
        if workdir is None:
            from pathlib import Path

            workdir = Path("runs") / f"{name}-{preset}-seed{command.config.seed}"
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
    try:
        kwargs: dict[str, Any] = {} if default is None else {"default": default}
        parsed = tyro.cli(command, prog=f"python -m {program}", description=doc, args=argv, **kwargs)
    except SystemExit as exit:  # --help, or a complaint, that of a dataclass which refuses a value included
        return int(exit.code or 0)
    try:
        action(parsed)
    except ExperimentError as error:
        return _complain(str(error), FAILED)
    except Interrupted as stop:
        print(str(stop), file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print("interrupted at once; what was saved before is kept.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _complain(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
