"""Stores the results of the benchmarks as JSON, and generates pages from them.

    uv run python -m benchmarks.results

Expected: writes docs/benchmarks.md from benchmarks/results/*.json and experiments/results/*.json, and the tables of trials at the end of
docs/recipe.md from experiments/results/recipe.jsonl.
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
    """Prints a table and writes it to FOLDER/NAME.json or EXPERIMENTS/NAME.json, with the machine, the versions and the date.

    If the table is made from rows that `keep` has stored, the machines are those of the rows.

    Args:
      name: the benchmark, as in `python -m benchmarks.NAME`. It has one table.
      title: heading of the table.
      columns: names of the columns. Every row has as many cells.
      rows: cells as text, with units.
      notes: sentences under the table, such as the number of runs, exclusions, and the meaning of a figure.
      python: command that starts Python, if it is not this project's own.
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
        "machine": "; and ".join(_machines(name)) or machine(),
        "versions": versions(),
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "notes": list(notes),
    }
    (_folder(name) / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def keep(name: str, row: Mapping[str, Any]) -> None:
    """Prints the result row of a run, and appends it with the date to FOLDER/NAME.jsonl or EXPERIMENTS/NAME.jsonl."""
    line = json.dumps({**row, "date": datetime.date.today().isoformat()})
    print(line, flush=True)
    with (_folder(name) / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def kept(name: str) -> list[dict[str, Any]]:
    """Returns the rows that `keep` has appended so far."""
    return [json.loads(line) for line in (_folder(name) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _machines(name: str) -> list[str]:
    """Returns the machines of the stored rows of a benchmark, each once; [] without stored rows or if they do not name a machine."""
    rows = kept(name) if (_folder(name) / f"{name}.jsonl").exists() else []
    return list(dict.fromkeys(row["machine"] for row in rows if "machine" in row))


def _folder(name: str) -> Path:
    """Returns the folder with the results of a benchmark or an experiment."""
    return EXPERIMENTS if (ROOT / "experiments" / f"{name}.py").exists() else FOLDER


def versions() -> str:
    """Returns the names and versions of those _PACKAGES that are installed."""
    found = []
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def machine() -> str:
    """Returns a description of the machine: processor, cores, memory, GPUs, operating system, Python."""
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
    """Returns the names of the GPUs that NVIDIA's driver lists."""
    if not shutil.which("nvidia-smi"):
        return "no GPU"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return ", ".join(names) or "no GPU"


_TEMPLATE = """\
# Benchmarks

The command above each table produced it, on the machine and with the versions named under the table. `make bench` runs the short
benchmarks. `python -m benchmarks.results` generates this page from `benchmarks/results/` and `experiments/results/`.
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
    """Returns the text of docs/benchmarks.md, generated from the stored results."""
    paths = sorted([*FOLDER.glob("*.json"), *EXPERIMENTS.glob("*.json")], key=lambda path: path.stem)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return jinja2.Template(_TEMPLATE, keep_trailing_newline=True).render(results=results, package=lambda name: _folder(name).parent.name)


def recipe() -> str:
    """Returns the text of docs/recipe.md, with the tables of trials generated from the stored results."""
    return RECIPE.read_text(encoding="utf-8").partition(_TRIALS_BEGIN)[0] + _TRIALS_BEGIN + _trials(kept("recipe"))


def main() -> None:
    for path, text in ((PAGE, page()), (RECIPE, recipe())):
        path.write_text(text, encoding="utf-8")
        print(path)


def _trials(rows: list[dict[str, Any]]) -> str:
    """Returns one table per task and number of pictures seen, with one row per trial, the best first."""
    tables: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        tables[row["task"], row["images_seen"]][row["trial"]].append(row)
    page = []
    for (task, seen), trials in sorted(tables.items()):
        page.append(f"\n### {task}, {seen:,} pictures seen\n")
        page.append("| trial | full-sequence accuracy on eval, per seed | mean | weights | CPU seconds of the fit |\n|---|---|---|---|---|")
        means = {name: statistics.mean(run["sequence_accuracy"] for run in runs) for name, runs in trials.items()}
        for name in sorted(means, key=means.__getitem__, reverse=True):
            runs = sorted(trials[name], key=lambda run: run["seed"])
            accuracies = ", ".join(f"{run['sequence_accuracy']:.2%}" for run in runs)
            seconds = statistics.median(run["cpu_s"] for run in runs)
            page.append(f"| {name} | {accuracies} | {means[name]:.2%} | {runs[0]['weights']:,} | {seconds:.0f} |")
    return "\n".join(page) + "\n"


if __name__ == "__main__":
    main()
