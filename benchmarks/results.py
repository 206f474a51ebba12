"""What the benchmarks measured, kept as JSON beside them, and the page made of it.

    uv run python -m benchmarks.results

Expected: docs/benchmarks.md is written anew from benchmarks/results/*.json, and the table of trials at the end of docs/recipe.md from
experiments/results/recipe.jsonl.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"
EXPERIMENTS = ROOT / "experiments" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
RECIPE = ROOT / "docs" / "recipe.md"
_TRIALS_BEGIN = "## Every trial\n"
_PACKAGES = ("tensorflow", "jax", "keras", "tfx", "apache-beam", "numpy", "captcha")


def record(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    python: str = "uv run python",
) -> None:
    """Prints a table of figures and keeps it in FOLDER/NAME.json, with the machine, the versions and the date.

    Args:
      name: the benchmark, as in `python -m benchmarks.NAME`; one table each.
      title: what the table shows.
      columns: the head; every row has as many cells.
      rows: cells as they are to be read, with units and the number of runs behind a median.
      notes: sentences under the table: what was not run, what stood beside the measurement, what a figure implies.
      python: how Python is started where it is not this project's own.
    """
    table = Table(*columns, title=title)
    for row in rows:
        assert len(row) == len(columns), (columns, row)
        table.add_row(*row)
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note)
    result = {
        "name": name,
        "python": python,
        "title": title,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "notes": list(notes),
    }
    (_folder(name) / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def keep(name: str, row: Mapping[str, Any]) -> None:
    """Prints what one of several runs came to, and adds it with the date to FOLDER/NAME.jsonl."""
    line = json.dumps({**row, "date": datetime.date.today().isoformat()})
    print(line, flush=True)
    with (_folder(name) / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def kept(name: str) -> list[dict[str, Any]]:
    """Returns what `keep` has added so far."""
    return [json.loads(line) for line in (_folder(name) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _folder(name: str) -> Path:
    """Where the results of a benchmark or an experiment lie."""
    return EXPERIMENTS if (ROOT / "experiments" / f"{name}.py").exists() else FOLDER


def versions() -> str:
    """Names those of _PACKAGES that are installed."""
    found = []
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def machine() -> str:
    """Describes what the figures depend on: processor, cores, memory, GPUs, system, Python."""
    lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines}
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
    bfloat16 = "".join(f", {name}" for flag, name in flags.items() if flag in fields["flags"].split())
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{fields['model name']}{bfloat16}, {cores} cores, {gibibytes:.0f} GiB, {gpus()}; {system}, Python {python}"


def gpus() -> str:
    """Names the GPUs that NVIDIA's driver knows of."""
    if not shutil.which("nvidia-smi"):
        return "no GPU"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return ", ".join(names) or "no GPU"


_TEMPLATE = """\
# Benchmarks

Every table comes from the command above it, run on the machine and with the versions under it; `make bench` runs the short ones.
This page is written by `python -m benchmarks.results` from what they left in `benchmarks/results/`.
{% for result in results %}
## {{ result.title }}

    {{ result.python | default("uv run python") }} -m {{ package(result.name) }}.{{ result.name }}

| {{ result.columns | join(" | ") }} |
|{{ "---|" * result.columns | length }}
{%- for row in result.rows %}
| {{ row | join(" | ") }} |
{%- endfor %}

{% for note in result.notes -%}
- {{ note }}
{% endfor -%}
- {{ result.date }}; {{ result.machine }}; {{ result.versions }}.
{% endfor -%}
"""


def page() -> str:
    """Returns docs/benchmarks.md as the figures that are kept make it."""
    paths = sorted([*FOLDER.glob("*.json"), *EXPERIMENTS.glob("*.json")], key=lambda path: path.stem)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return jinja2.Template(_TEMPLATE, keep_trailing_newline=True).render(results=results, package=lambda name: _folder(name).parent.name)


def recipe() -> str:
    """Returns docs/recipe.md, its tables of trials as the figures that are kept make them."""
    return RECIPE.read_text(encoding="utf-8").partition(_TRIALS_BEGIN)[0] + _TRIALS_BEGIN + _trials(kept("recipe"))


def main() -> None:
    for path, text in ((PAGE, page()), (RECIPE, recipe())):
        path.write_text(text, encoding="utf-8")
        print(path)


def _trials(rows: list[dict[str, Any]]) -> str:
    """A table for each task and number of pictures seen: a line a trial, the best first."""
    tables: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        tables[row["task"], row["images_seen"]][row["trial"]].append(row)
    page = []
    for (task, seen), trials in sorted(tables.items()):
        page.append(f"\n### {task}, {seen:,} pictures seen\n")
        page.append("| trial | full sequence on eval, by seed | mean | weights | CPU s of the fit |\n|---|---|---|---|---|")
        means = {name: statistics.mean(run["sequence_accuracy"] for run in runs) for name, runs in trials.items()}
        for name in sorted(means, key=means.__getitem__, reverse=True):
            runs = sorted(trials[name], key=lambda run: run["seed"])
            accuracies = ", ".join(f"{run['sequence_accuracy']:.2%}" for run in runs)
            seconds = statistics.median(run["cpu_s"] for run in runs)
            page.append(f"| {name} | {accuracies} | {means[name]:.2%} | {runs[0]['weights']:,} | {seconds:.0f} |")
    return "\n".join(page) + "\n"


if __name__ == "__main__":
    main()
