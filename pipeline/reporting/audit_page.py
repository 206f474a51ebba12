"""Writes the result of an audit: the suspect labels as JSON, and one self-contained page on which a person decides about them.

The page needs no server and no network. The choices stay in the browser until the person saves them as a file for `captcha-pipeline data
correct`. Labels, file names and pictures are untrusted, as in the report (pipeline/reporting/report.py).
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
from pipeline.reporting.label_tables import audit_in_words
from pipeline.runs.audit import Audit

PAGE: Final = "audit.html"
SUSPECTS: Final = "suspects.jsonl"
MAX_SHOWN: Final = 500  # pictures on the page, so that it opens quickly; a person decides about a few hundred in one sitting


def write_audit(title: str, audit: Audit, spec: CaptchaSpec, folder: Path) -> Path:
    """Writes SUSPECTS and PAGE, and returns the path of the page. Each file appears complete or not at all.

    Args:
      title: of the page, such as the name of the pipeline.
      audit: the result. The page shows the first MAX_SHOWN suspects; the file SUSPECTS has all of them.
      spec: says which labels the page accepts.
      folder: is created if it is missing. Earlier files are replaced.

    Raises:
      CaptchaPipelineError: the disk is full, or the folder cannot be written.
    """
    fields = [field.name for field in dataclasses.fields(audit.suspects[0]) if field.name != "picture"] if audit.suspects else []
    rows = ({name: getattr(suspect, name) for name in fields} for suspect in audit.suspects)
    write_whole(folder / SUSPECTS, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    template = filters.template("audit.html.j2")
    style, script = (_source(template.environment, name) for name in ("audit.css", "audit.js"))
    html = template.render(
        title=title,
        audit=audit,
        verdict=audit_in_words(audit),
        shown=audit.suspects[:MAX_SHOWN],
        rules={
            # The browser stores the choices under this name, so that the choices of another audit do not appear here.
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
