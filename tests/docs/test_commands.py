"""Every `gameday …` and `make …` that README and docs show: the command exists and takes the options shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cyclopts import MissingArgumentError

from gameday.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
FENCED = re.compile(r"^\s*```\w*\n(.*?)^\s*```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(.+)$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
PROGRAMS = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(gameday|make) (.+)$")
ENDS = re.compile(r"\s{2,}|\s#|\s[|>&]|;|\)$|…|\.\.\.")
"""Where a command stops being ours: a comment, a pipe, an ellipsis, the next column of a picture."""
NUMBERED = {"RUN": "latest", "SCENARIO": "calm", "N": "3", "NAME": "calm", "FILE": "file.json", "PATH": "path"}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def shown(page: Path) -> Iterator[tuple[str, str]]:
    """(program, arguments) of each command on the page."""
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text())
    fenced = [line for block in FENCED.findall(text) for line in block.splitlines()]
    prose = FENCED.sub("", text)
    for piece in (
        part for line in [*fenced, *INDENTED.findall(prose), *INLINE.findall(prose)] for part in line.split(" && ")
    ):
        found = PROGRAMS.match(piece.strip())
        if found is not None:
            yield found[1], ENDS.split(found[2])[0].strip()


COMMANDS = [
    pytest.param(*command, id=f"{page.relative_to(ROOT)}: {' '.join(command)}")
    for page in PAGES
    for command in dict.fromkeys(shown(page))
]


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_a_command_that_is_shown_exists(program: str, arguments: str) -> None:
    words = [NUMBERED.get(word, word) for word in shlex.split(arguments)]
    if program == "make":
        assert {word for word in words if "=" not in word} <= TARGETS
        return
    assert app.parse_commands(words)[0], arguments
    # A page may name a command or an option without what it works on.
    with suppress(MissingArgumentError):
        app.parse_args(words, exit_on_error=False, print_error=False)
