"""`gameday mesh chart`: the Helm chart of this version, written from what `install` prints."""

from __future__ import annotations

import sys
from pathlib import Path

from mesh.commands.errors import CommandFailed
from mesh.commands.settings import DEFAULT_VALUES, ValueOptions
from mesh.deploy.chart import write_chart


def chart(*, out: Path, values: ValueOptions = DEFAULT_VALUES) -> int:
    """Write the Helm chart.

    Parameters
    ----------
    out
        Folder to write to; made where it does not exist.
    """
    wanted = values.read()
    try:
        written = write_chart(out, wanted)
    except OSError as error:
        raise CommandFailed(f"--out {out}: {error.strerror or error}") from None
    print(f"{len(written)} files in {out}; see {out / 'README.md'}", file=sys.stderr)
    return 0
