"""Makes the pages of figures, and the picture, from the record in docs/records.

    python -m experiments.record            # writes README.md, docs/results.md, each study's tables, docs/frontier.png
    python -m experiments.record --check    # writes nothing; exits with 1 where one of them differs from the record

Figures stand in docs/records/*/results.json alone. README.md and docs/results.md are made of docs/templates. Adding a
study is a folder and a line: docs/records/README.md says how.
"""

import dataclasses
from pathlib import Path

from experiments.cli import main, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.record`."""

    check: bool = False
    """Write nothing; fail where a page or the picture differs from the record."""
    root: Path = Path(".")
    """Folder of the repository."""


def render(command: Command) -> None:
    """Carries out the command.

    Raises:
        RecordError: if the record contradicts itself, or, with `check`, if a page differs from it.
    """
    from experiments.records.data import RecordError, load_record
    from experiments.records.pages import make_pages
    from experiments.records.picture import PICTURE, draw, is_current

    pages, studies = make_pages(command.root), load_record(command.root)
    differ = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    picture = command.root / PICTURE
    redraw = not is_current(picture, studies)
    shown = ", ".join(str(path) for path in [*differ, *([picture] if redraw else [])])
    if command.check:
        if shown:
            raise RecordError(f"{shown}: not what the record says; run python -m experiments.record and commit it.")
        return
    for path in differ:
        path.write_text(pages[path])
    if redraw:
        draw(picture, studies)
    print(f"written: {shown}" if shown else "all pages are what the record says.")


if __name__ == "__main__":
    main(run_command, Command, render, "experiments.record", __doc__)
