"""The result of an audit on disk: the suspect labels as JSON, and one self-contained page on which a person decides about them.

The page needs no server and no network. The choices stay in the browser, and leave it as a file for `captcha-pipeline data correct`.
Labels, file names and pictures are untrusted, as in the report (pipeline/reporting/report.py).
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Final

import jinja2

from components.base.files import write_whole
from components.data.captcha_spec import CaptchaSpec
from pipeline.exporting.html_page import hashed
from pipeline.reporting import filters
from pipeline.runs.audit import Audit

PAGE: Final = "audit.html"
SUSPECTS: Final = "suspects.jsonl"
MAX_SHOWN: Final = 500  # pictures on the page: a person decides about a few hundred in one sitting, and the page opens at once


def write_audit(title: str, audit: Audit, spec: CaptchaSpec, folder: Path) -> Path:
    """Writes SUSPECTS and PAGE, and returns the path of the page. Each file appears complete or not at all.

    Args:
      title: of the page, such as the name of the pipeline.
      audit: its result. The page shows the first MAX_SHOWN suspects, SUSPECTS has all of them.
      spec: the labels that the page accepts.
      folder: is made if it is missing. Earlier files are replaced.
    """
    fields = [field.name for field in dataclasses.fields(audit.suspects[0]) if field.name != "picture"] if audit.suspects else []
    rows = ({name: getattr(suspect, name) for name in fields} for suspect in audit.suspects)
    write_whole(folder / SUSPECTS, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    template = filters.template("audit.html.j2")
    style, script = (_source(template.environment, name) for name in ("audit.css", "audit.js"))
    html = template.render(
        title=title,
        audit=audit,
        shown=audit.suspects[:MAX_SHOWN],
        rules={
            # Choices about other labels, or about an earlier audit, must not be taken for choices about these.
            "audit": hashlib.sha256("".join(f"{it.key} {it.label}\n" for it in audit.suspects).encode()).hexdigest()[:16],
            "characters": spec.characters,
            "case_sensitive": spec.case_sensitive,
            "min_length": spec.min_length,
            "max_length": spec.max_length,
        },
        style=style,
        script=script,
        style_hash=hashed(style),
        script_hash=hashed(script),
    )
    write_whole(folder / PAGE, html)
    return folder / PAGE


def _source(environment: jinja2.Environment, name: str) -> str:
    """Returns the text of a file beside the templates."""
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]
