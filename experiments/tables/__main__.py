"""Makes a table or figure of the papers from runs of our own, the papers' figures beside ours.

    python -m experiments.tables NAME [--budget 1] [--seeds N] [--rows ROW...] [--data-dir DIR] [--finished] [--json]

| NAME | what | papers |
|---|---|---|
| adaptive | DFN, WeightNet, DDF, BranchyNet, SkipNet, DRNN, ODE-Net, hypernetwork, Puppet-CNN | v1 and v2 table 1 |
| lightweight | AlexNet, MobileNets, SqueezeNet, ResNet-20, ResNet-8, tiniest, Puppet-CNN | v1 table 2, v2 table 3 |
| backbones | AlexNet, VGG, ResNet: fixed, puppeteer-puppet, parameter adaptation | v1 table 3, v2 table 2 |
| operations | ResNet, Puppet-ResNet, Puppet-CNN: multiply-accumulates and speed | v1 table 4, v2 table 5 |
| channels | sizes by the largest number of channels; no training | v1 table 5, v2 table 7 |
| datasets | CIFAR-100 and mini-ImageNet | v1 and v2 table 6 |
| training_sets | partial and full training set | v2 table 4 |
| sizes | backbones and puppeteers; no training | params of v1 tables 2 and 3 |
| depths | stored size against depth of VGG and ResNet; no training | v1 figure 4 |
| ablation | initial state, scale, depth rule, adaptation | none |
| equal_bytes | puppets and networks of as many stored bytes, at three sizes | none |
| few_products | preset light and networks of as many stored bytes and no more arithmetic | none |
| few_bytes | networks in 7.0 kB, and wider ones of as many bytes whose weights are generated | none |
| generators | preset best with kernels of other generators of as many floats | none |
| transformers | a ViT and an MLP-Mixer, all of whose weights are generated | none |

Trains what is missing, reads what is finished, goes on where a run or the table itself was interrupted. Without
--budget it is a smoke run on a small share of the protocol, and says so; --budget 1 is the full protocol. With --rows
some rows are trained, with --finished none, and the table says what it lacks. With --ray runs train at the same time
on a cluster; a run whose process dies is started again, and goes on from its newest checkpoint. Writes NAME.md,
NAME.json and NAME.png into the folder --out. With --record docs/records/STUDY its rows go into that study, and of
each finished run what says so: a copy of STUDY/runs as --runs goes on from there.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.cli import main, run_command

COMPUTED = ("channels", "sizes", "depths")
"""Tables without runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.tables`."""

    name: Annotated[
        Literal[
            "adaptive",
            "lightweight",
            "backbones",
            "operations",
            "channels",
            "datasets",
            "training_sets",
            "sizes",
            "depths",
            "ablation",
            "equal_bytes",
            "few_products",
            "few_bytes",
            "generators",
            "transformers",
        ],
        tyro.conf.Positional,
    ]
    """Which table."""
    budget: float | None = None
    """Share of the full protocol's epochs, in (0, 1]; a smoke run if not given."""
    seeds: int | None = None
    """Runs a row, seeds 0 to N - 1; the table's own number if not given."""
    data_dir: Path | None = None
    """Folder of CIFAR-10."""
    cifar100_dir: Path | None = None
    """Folder of CIFAR-100."""
    mini_imagenet_dir: Path | None = None
    """Folder of mini-ImageNet."""
    runs: Path = Path("runs/tables")
    """Folder of the runs; all tables share them."""
    rows: tuple[str, ...] = ()
    """Train these rows alone, named as the table names them; of the others show what is finished."""
    finished: bool = False
    """Train nothing: a table of the runs that are finished."""
    ray: str | None = None
    """Trains runs at the same time on a Ray cluster: its address, or local to start one on this machine."""
    ray_cpus: int = 1
    """CPU cores of a run on the cluster."""
    ray_gpus: float | None = None
    """GPUs of a run on the cluster; one where it has GPUs, else none, if not given. With 0.5 two runs share one."""
    out: Path = Path("runs/tables")
    """Folder that the table is written to."""
    record: Path | None = None
    """Folder of a study in docs/records that the rows, and what says that runs are finished, are written to."""
    json: bool = False
    """Print the table as one JSON object on standard output, all else on standard error."""

    def __post_init__(self):
        """Refuses values outside their range."""
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ValueError(f"--budget must be in (0, 1], got {self.budget}.")
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {self.seeds}.")
        for flag, given in {"record": self.record is not None, "rows": bool(self.rows)}.items():
            if given and self.name in COMPUTED:
                raise ValueError(f"--{flag} is for tables of runs; {self.name} needs none.")
        if self.rows and self.finished:
            raise ValueError("--rows says what to train, --finished to train nothing; give one of them.")
        if self.ray_cpus < 1:
            raise ValueError(f"--ray-cpus must be at least 1, got {self.ray_cpus}.")
        if self.ray_gpus is not None and not self.ray_gpus >= 0:
            raise ValueError(f"--ray-gpus must be at least 0, got {self.ray_gpus}.")


def make(command: Command) -> None:
    """Carries out the command."""
    from experiments.runs.files import write_json

    with contextlib.redirect_stdout(sys.stderr):
        described, text, figure = _computed(command.name) if command.name in COMPUTED else _trained(command)
    command.out.mkdir(parents=True, exist_ok=True)
    path = command.out / command.name
    path.with_suffix(".md").write_text(text)
    write_json(path.with_suffix(".json"), described)
    if command.record is not None:
        from experiments.tables import record

        record.write(described, command.record, command.runs)
    figure.savefig(path.with_suffix(".png"))
    print(json.dumps(described) if command.json else text)
    print(f"written: {path}.md, {path}.json, {path}.png", file=sys.stderr)


def _trained(command: Command) -> tuple[dict[str, Any], str, Any]:
    from experiments.errors import UsageError
    from experiments.tables import render
    from experiments.tables.cluster import Cluster
    from experiments.tables.definitions import TRAINED
    from experiments.tables.runs import Runs

    table = TRAINED[command.name]()
    labels = [row.label for row in table.rows]
    for label in command.rows:
        if label not in labels:
            raise UsageError(f"{command.name} has no row {label!r}; give --rows some of {'; '.join(labels)}.")
    budget = table.smoke if command.budget is None else command.budget
    seeds = table.seeds if command.seeds is None else command.seeds
    data_dirs = {
        "cifar10": command.data_dir,
        "cifar100": command.cifar100_dir,
        "mini_imagenet": command.mini_imagenet_dir,
    }
    trained = () if command.finished else command.rows or None
    with contextlib.ExitStack() as stack:
        cluster = None
        if command.ray is not None and not command.finished:
            cluster = stack.enter_context(Cluster(command.ray, command.ray_cpus, command.ray_gpus))
        runs = Runs(command.runs, data_dirs, rows=trained, cluster=cluster)
        results = runs.results(table, budget, seeds)
    full = budget == 1
    title = table.title if full else f"{table.title}: SMOKE RUN, {100 * budget:g} % of the protocol"
    ran = next(result for result in results if "ours" in result)
    notes = [
        f"{seeds} seed{'s' if seeds > 1 else ''}; budget {budget:g}"
        + ("" if full else ", a small budget: not the protocol's result")
        + f"; {ran['device']}; Python {ran['versions']['python']}, jax {ran['versions']['jax']}."
    ]
    missing: dict[str, list[str]] = {}
    for result in results:
        if "missing" in result:
            missing.setdefault(result["missing"], []).append(result["label"])
    notes += [f"Not run: {'; '.join(labels)}: {reason}" for reason, labels in missing.items()]
    for result in results:
        unfinished = sorted(set(range(seeds)) - set(result.get("seeds", range(seeds))))
        if unfinished:
            notes.append(f"Seeds not run: {result['label']}: {', '.join(map(str, unfinished))}.")
    text = f"## {title}\n\n{render.accuracy_table(results, table.columns)}\n" + "\n".join(notes) + "\n"
    described = {
        "name": command.name,
        "title": title,
        "budget": budget,
        "smoke": not full,
        "seeds": seeds,
        "rows": results,
    }
    if any("search" in result and result["search"] for result in results):
        return described, text, render.plot_bytes(title, results, _published())
    return described, text, render.plot_accuracy(title, results)


def _published() -> list[dict[str, Any]]:
    """What others report for CIFAR-10, from the record of the working directory; none elsewhere."""
    from experiments.records.data import RecordError, load_record

    try:
        rows = load_record(Path())["published"].results["rows"]
    except (RecordError, KeyError):
        return []
    return [row for row in rows if row.get("bytes") and row.get("top1") and "CIFAR-100" not in row["label"]]


def _computed(name: str) -> tuple[dict[str, Any], str, Any]:
    from experiments.tables import render, sizes

    if name == "depths":
        title = "Stored size against depth (v1 figure 4)"
        rows = sizes.depths()
        text, figure = render.depth_table(rows), render.plot_depths(title, rows)
    else:
        title = {
            "sizes": "Backbones and puppeteers: stored floats",
            "channels": "Size by maximum output channels (v1 table 5, v2 table 7)",
        }[name]
        rows = sizes.networks() if name == "sizes" else sizes.channels()
        text, figure = render.size_table(rows), render.plot_sizes(title, rows)
    return {"name": name, "title": title, "rows": rows}, f"## {title}\n\n{text}", figure


if __name__ == "__main__":
    main(run_command, Command, make, "experiments.tables", __doc__)
