"""Writes a run's reports: report.html, report.md, report.json, junit.xml.

A function of the run store alone: no clock, no environment, no network, no randomness. The same store gives the same
bytes, so a report can be rebuilt, compared and trusted long after the run.
"""

from __future__ import annotations

from pathlib import Path

from reports.assemble import assemble
from reports.document import to_json
from reports.html import to_html
from reports.junit import to_junit
from reports.markdown import to_markdown
from reports.material import gather
from reports.run import Run
from reports.store import RunStore

NAMES = ("report.html", "report.md", "report.json", "junit.xml")


def write_reports(store: RunStore | Path, out_dir: Path) -> list[Path]:
    """Writes the four files into `out_dir`, making it; returns their paths.

    A file replaces an older one whole, so that a reader never sees half a report.

    Raises:
        FileNotFoundError, sqlite3.DatabaseError: there is no such store, or it is none of ours.
        OSError: `out_dir` cannot be written.
    """
    if isinstance(store, Path):
        with RunStore(store) as opened:
            return write_reports(opened, out_dir)
    material = gather(Run(store))
    document = assemble(material)
    bodies = (
        to_html(document, material).encode(),
        to_markdown(document).encode(),
        to_json(document),
        to_junit(document),
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, body in zip(NAMES, bodies, strict=True):
        path = out_dir / name
        partial = path.with_name(f".{name}.partial")
        partial.write_bytes(body)
        partial.replace(path)
        paths.append(path)
    return paths
