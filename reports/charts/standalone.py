"""A chart as a file of its own: namespace, size, and the few styles that it needs, for light and dark readers."""

from __future__ import annotations

import re

STYLE = """\
svg { --paper: #ffffff; --ink: #1a1e23; --quiet: #5c6670; --rule: #dde2e7; --forecast: #0072b2; --held: #d55e00;
  --good: #00694f; background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --paper: #15181c; --ink: #e7eaee; --quiet: #9ba6b1; --rule: #30373f;
  --forecast: #56b4e9; --held: #f0883e; --good: #5cc9a4; } }
text { font: 12px system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", Arial, sans-serif;
  fill: var(--ink); }
text.tick { fill: var(--quiet); font-size: 11.5px; }
.grid { stroke: var(--rule); fill: none; } .axis { stroke: var(--quiet); fill: none; }
.target { stroke: var(--good); stroke-width: 1.2; stroke-dasharray: 2 3; fill: none; }
.sealing { fill: var(--quiet); fill-opacity: 0.15; }
.glyph-bar { fill: var(--forecast); fill-opacity: 0.4; } .glyph-median { stroke: var(--forecast); stroke-width: 2; }
.whisker { stroke-width: 2; fill: none; } path.all { stroke: var(--forecast); } circle.all { fill: var(--forecast); }
path.moved { stroke: var(--ink); } circle.moved { fill: var(--ink); }
path.held-out { stroke: var(--held); } circle.held-out { fill: var(--held); }
"""


def standalone(chart: str) -> str:
    """The SVG element of a chart as an SVG document."""
    box = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', chart)
    assert box is not None
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{box[1]}" height="{box[2]}"'
    body = chart.replace("<svg", head, 1)
    end = body.index(">") + 1
    return f"{body[:end]}<style>\n{STYLE}</style>{body[end:]}\n"
