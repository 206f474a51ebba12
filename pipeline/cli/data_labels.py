"""`captcha-pipeline data pseudo` labels pictures with models. `data correct` corrects labels of pictures that are in spans."""

from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.cli.data_output import complain, importing, tell, tell_corrections
from pipeline.cli.options import ConfigOption, SetOption
from pipeline.cli.terminal import console
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow


def pseudo(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures without labels.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    folds: Annotated[int, typer.Option(min=2, max=20, help="Number of models. Each is fitted to all folds of the labels but one.")] = 5,
) -> None:
    """Let models label pictures, and store the pictures on which they agree in a new span. For few labels and many pictures.

    Fits several models to the labels of the latest complete run. A picture gets a
    label if nearly all of them read the same text, even after the picture is moved
    by two pixels. The new span has the source pseudo and only a train split: its
    pictures train models, but never measure them. Pictures that a person has
    labelled are left out, and so are pictures that look like an eval or a test
    picture. If you import your own label for a picture later, it replaces the label
    of the models.

    Example: captcha-pipeline data pseudo ~/captures && captcha-pipeline run
    """
    from components.base.features import PSEUDO
    from components.data.sources.imported import import_entries
    from components.data.sources.listing import Entry, regular_files
    from components.data.sources.outcome import Imported
    from pipeline.config.imports import import_plan
    from pipeline.config.loading import load_config
    from pipeline.runs import history

    settings = load_config(config, overrides)
    run = history.latest_complete_run(settings.metadata_path)
    result = Imported()
    entries = [Entry(path, name, "") for path, name in regular_files(folder, result.leave_out)]
    load_tensorflow()
    from pipeline.reporting import tables
    from pipeline.runs.pseudo_labels import votes

    with console.status(f"{folds} fits …"):
        found = votes(settings, run, entries, folds, result, lambda so_far: tables.print_fold(console, so_far))
    agreed = [vote.entry for vote in found if vote.agreed]
    typer.echo(f"{folds} models agree on {len(agreed):,} of {len(found):,} pictures.")
    plan = import_plan(settings, PSEUDO)
    with importing() as progress:
        imported = import_entries(agreed, plan, result, progress)
    tell(imported, plan)


def correct(
    table: Annotated[Path, typer.Argument(help="Table (.csv or .jsonl) with the columns key and label, or path and label.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
) -> None:
    """Correct the labels of pictures that are in spans, or remove pictures. The corrections become a new span; no old span changes.

    The page of `captcha-pipeline audit` writes such a table, with the keys of the
    pictures. In a table of your own, path names a picture file, relative to the
    table's folder, and label is the right label. An empty label removes the
    picture. Later runs leave out the old records of these pictures. To undo the
    corrections, remove the new span with `data drop`.

    Example: captcha-pipeline data correct ~/Downloads/corrections.csv
    """
    from components.base.features import CORRECTIONS
    from components.data.sources.corrections import correct
    from components.data.sources.outcome import NothingNew
    from pipeline.config.imports import import_plan
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    plan = import_plan(settings, CORRECTIONS)
    try:
        with importing() as progress:
            corrected = correct(table, plan, progress)
    except NothingNew as nothing:
        typer.echo(f"Nothing to correct: {nothing.result.known:,} pictures already match {table}.")
        complain(nothing.result)
        return
    tell_corrections(corrected)


COMMANDS: Final = (pseudo, correct)
