"""`gameday explain`: ask the twin longer than a run's end had time for, and write the run's report anew."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table

from gameday import judge, rundir
from gameday.errors import BadInput, Exit
from reports.build import write_reports
from reports.explanation import price_words
from reports.notation import percent, share, share_span, span, times
from reports.run import Run
from reports.store import RunStore
from reports.verification import DOCUMENT
from sim.explain.explanation import UNCHANGED, Explanation, Remedy
from sim.results import Forecast

BAR = 8
"""Characters of a share of 100 %: a line fits 80 columns."""


def explain_again(name: str, seconds: float) -> int:
    """Explains a stored run for `seconds`; prints what it found.

    Raises:
        BadInput: no such run, or it did not get to its end.
    """
    if seconds < 1.0:
        raise BadInput(f"--seconds {seconds:g}: give it a second at least")
    run = rundir.find(name)
    with RunStore(run.store) as store:
        seen = Run(store)
        sealed = store.document("forecast")
        if seen.scenario is None or seen.state != "finished" or sealed is None:
            raise BadInput(f"run {run.path.name} did not get to its end; explain one that did")
        windows = {name: list(bounds) for name, bounds in seen.windows.items()}
        forecast = msgspec.json.decode(sealed[1], type=Forecast)
        found = judge.explain_run(
            store, seen.scenario, windows, forecast, int(seen.meta.get("seed", 1)), seconds=seconds
        )
        if found is None:
            raise BadInput(f"run {run.path.name}: there is nothing to ask of a run without faults or SLOs")
        verified = store.document(DOCUMENT)
        write_reports(store, run.path)
    print_explanation(found)
    if verified is not None:
        print("what was verified before keeps its place in the report where its change is still among these")
    print(f"\nreport: {run.path / 'report.html'}")
    return Exit.HELD


def print_explanation(found: Explanation) -> None:
    """Changes, their effect and price, then causes."""
    console = Console()
    console.print(f"[bold]What would have saved the SLOs[/bold]  {found.verdict}")
    if not found.remedies:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "change", "size", "SLO", "budget spent", "holds", "price when healthy", "for real"):
        table.add_column(column, justify="right" if column in ("size", "holds") else "left")
    for remedy in found.remedies:
        for index, slo in enumerate(remedy.slos):
            first = index == 0
            table.add_row(
                ("✓" if remedy.holds else "") if first else "",
                remedy.change if first else "",
                (f"{remedy.size:.1f}" if remedy.size else "–") if first else "",
                slo.name,
                f"{times(slo.budget_spent_median)} "
                f"({span('budget_spent', slo.budget_spent_low, slo.budget_spent_high)})",
                percent(slo.probability_held),
                price_line(remedy) if first else "",
                (_real(remedy)) if first else "",
            )
    console.print(table)
    if found.causes:
        console.print(f"\n[bold]Why {found.causes[0].slo} burned[/bold]  share of the burn that goes without")
        for cause in found.causes:
            bar = ("█" if cause.share > 0 else "░") * min(BAR, round(abs(cause.share) * BAR))
            part = f"  (Shapley {share(cause.shapley)})" if cause.shapley is not None else ""
            interval = share_span(cause.low, cause.high)
            console.print(f"  {cause.mechanism:42} {share(cause.share):>7}  {interval:>16}  {bar}{part}")
    console.print(f"\n{found.tried} changes tried, {found.plays} days played in {found.seconds:.1f} s")


def price_line(remedy: Remedy) -> str:
    """The price in a few words; `nothing` below what the twin can tell."""
    price = remedy.price
    if price is None:
        return "" if remedy.change == UNCHANGED else "not played"
    return ", ".join(price_words(price)) or "nothing"


def _real(remedy: Remedy) -> str:
    if remedy.change == UNCHANGED:
        return ""
    return f"no: {remedy.unverifiable}" if remedy.unverifiable else "`gameday verify`"
