"""Primitives: scales, ticks, and a canvas that collects SVG elements with fixed number formats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

Point = tuple[float, float]


def number(value: float) -> str:
    """A coordinate: one decimal, no trailing zero, never `-0`."""
    text = f"{value:.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


@dataclass(frozen=True, slots=True)
class Scale:
    """Linear map of a domain to pixels; values outside are clamped to the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values in [low, high], roughly `about` of them (steps of 1, 2 or 5 times a power of ten)."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(slots=True)
class Canvas:
    """An SVG under construction. `label` is read to those who cannot see it."""

    width: float
    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def add(self, markup: str) -> None:
        self.parts.append(markup)

    def rect(self, x: float, y: float, width: float, height: float, css: str, title: str | None = None) -> None:
        box = f'x="{number(x)}" y="{number(y)}" width="{number(max(width, 0.5))}" height="{number(height)}"'
        self.add(f'<rect class="{css}" {box}{_close("rect", title)}')

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self.add(f'<path class="{css}" d="M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}"/>')

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start") -> None:
        where = f'x="{number(x)}" y="{number(y)}"'
        anchored = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.add(f'<text class="{css}" {where}{anchored}>{escape(text)}</text>')

    def circle(self, x: float, y: float, radius: float, css: str, title: str | None = None) -> None:
        self.add(
            f'<circle class="{css}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"{_close("circle", title)}'
        )

    def diamond(self, x: float, y: float, radius: float, css: str, title: str | None = None) -> None:
        corners = (
            f"M{number(x)} {number(y - radius)}l{number(radius)} {number(radius)}l{number(-radius)} {number(radius)}"
        )
        self.add(f'<path class="{css}" d="{corners}l{number(-radius)} {number(-radius)}z"{_close("path", title)}')

    def curve(self, points: Iterable[Point | None], css: str) -> None:
        """A line through the points, interrupted at None."""
        steps: list[str] = []
        pen_down = False
        for point in points:
            if point is None:
                pen_down = False
                continue
            steps.append(f"{'L' if pen_down else 'M'}{number(point[0])} {number(point[1])}")
            if not pen_down:
                steps.append("h0")  # a lone point still shows, as a dot of the stroke's width
            pen_down = True
        if steps:
            self.add(f'<path class="{css}" d="{"".join(steps)}"/>')

    def area(self, upper: Sequence[Point | None], lower: Sequence[Point | None], css: str) -> None:
        """The band between two lines of the same length, interrupted where either is None."""
        stretch: list[tuple[Point, Point]] = []
        steps: list[str] = []

        def close() -> None:
            if len(stretch) > 1:
                there = [f"{number(high[0])} {number(high[1])}" for high, _ in stretch]
                back = [f"{number(low[0])} {number(low[1])}" for _, low in reversed(stretch)]
                steps.append("M" + "L".join(there + back) + "z")
            stretch.clear()

        for high, low in zip(upper, lower, strict=True):
            if high is None or low is None:
                close()
            else:
                stretch.append((high, low))
        close()
        if steps:
            self.add(f'<path class="{css}" d="{"".join(steps)}"/>')

    def markup(self, css: str = "") -> str:
        size = f'viewBox="0 0 {number(self.width)} {number(self.height)}"'
        return (
            f'<svg class="{css}" {size} role="img" aria-label="{escape(self.label)}">' + "".join(self.parts) + "</svg>"
        )


def _close(tag: str, title: str | None) -> str:
    return "/>" if title is None else f"><title>{escape(title)}</title></{tag}>"
