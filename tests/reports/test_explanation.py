"""What would have saved the SLO, and why it burned, as the report's readers get it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from synthetic import SyntheticRun

from reports.build import NAMES, write_reports
from reports.explanation import price_words
from reports.store import RunStore
from reports.verification import DOCUMENT, Row, Verification
from sim.explain.explanation import UNCHANGED, Cause, Explanation, Price, Remedy, Setting
from sim.results import CounterfactualSlo


def effect(spent: float, held: float) -> tuple[CounterfactualSlo, ...]:
    return (
        CounterfactualSlo(
            name="checkout", budget_spent_low=spent * 0.8, budget_spent_median=spent, budget_spent_high=spent * 1.25,
            probability_held=held,
        ),
        CounterfactualSlo(
            name="browse", budget_spent_low=0.0, budget_spent_median=0.05 * spent, budget_spent_high=0.1 * spent,
            probability_held=1.0,
        ),
    )  # fmt: skip


PRICE = Price(
    slo="checkout", p50=0.021, p50_change=0.0001, p99=0.080, p99_change=0.012, success_change=0.0, attempts=1.031,
    attempts_change=0.03, work_change=0.012, pods=1, places=12, certificates_per_minute=0.0, replications=8,
)  # fmt: skip
SMALLEST = "retry limit 3 → 4 at payment; 3 replicas of payment instead of 2"


def explanation() -> Explanation:
    return Explanation(
        remedies=(
            Remedy(
                change=SMALLEST,
                settings=(Setting(knob="replicas", place="payment", before=2.0, after=3.0),),
                size=3.5,
                slos=effect(0.6, 0.97),
                holds=True,
                replications=40,
                price=PRICE,
                overrides=("app={folder}/app.yaml",),
                files={"app.yaml": "x"},
            ),
            Remedy(change=UNCHANGED, settings=(), size=0.0, slos=effect(19.0, 0.0), holds=False, replications=40),
            Remedy(
                change="destinations, and the connections to them, are kept 1m idle, not 5s",
                settings=(),
                size=4.6,
                slos=effect(25.0, 0.0),
                holds=False,
                replications=40,
                unverifiable="no scenario field says it",
            ),
        ),
        causes=(
            Cause(mechanism="the fault payment-degraded", kind="fault", slo="checkout", share=0.99, low=0.98, high=1.0,
                  replications=20),
            Cause(mechanism="retries", kind="mechanism", slo="checkout", share=0.45, low=0.38, high=0.52, shapley=0.3,
                  replications=20),
            Cause(mechanism="bounded queues in apps", kind="mechanism", slo="checkout", share=-0.2, low=-0.3, high=-0.1,
                  shapley=-0.1, replications=20),
        ),
        verdict=f"The smallest of 48 changes tried that holds every SLO: {SMALLEST}.",
        tried=48,
        plays=412,
        seconds=9.8,
        complete=True,
    )  # fmt: skip


def verification(measured: float | None, state: str = "finished") -> Verification:
    inside = measured <= 0.8 if measured is not None else None
    return Verification(
        change=SMALLEST,
        overrides=(),
        run="first-verified",
        subject="checkout",
        sealed_at=1.0,
        sha256="ab" * 32,
        state=state,  # type: ignore[arg-type]
        rows=(
            *(
                Row(quantity=name, subject="checkout", low=0.4, median=0.6, high=0.8, measured=measured, inside=inside)
                for name in ("budget_spent", "p95")
            ),
        ),
    )


def written(folder: Path, verified: Verification | None = None) -> dict[str, str]:
    with RunStore(SyntheticRun().write(folder / "run.sqlite")) as store:
        store.put_document("explanation", 1.0, msgspec.json.encode(explanation()))
        if verified is not None:
            store.put_document(DOCUMENT, 2.0, msgspec.json.encode(verified))
        write_reports(store, folder)
    return {name: (folder / name).read_text(encoding="utf-8") for name in NAMES}


def test_the_smallest_change_stands_first_with_its_price(tmp_path: Path) -> None:
    files = written(tmp_path)
    page = files["report.html"].split('id="counterfactuals"')[1].split("</section>")[0]
    assert page.index(SMALLEST) < page.index(UNCHANGED)
    for word in ("+1 pod", "p99 68", "tries 1.001 → 1.031 a request", "+1.2 % requests handled"):
        assert word in page, word
    assert "cannot be tried for real: no scenario field says it" in page
    assert page.count("model output") >= 2
    document = json.loads(files["report.json"])
    first = document["counterfactuals"][0]
    assert (first["change"], first["holds"], first["size"], first["verified"]) == (SMALLEST, True, 3.5, None)
    assert first["price"]["pods"] == 1
    assert document["search"]["tried"] == 48
    assert SMALLEST in files["report.md"]
    assert "+1 pod" in files["report.md"]


def test_where_there_was_no_time_the_report_says_how_to_give_it_more(tmp_path: Path) -> None:
    verdict = "There was no time to play the day twice in the twin; `gameday explain RUN --seconds 60` takes more."
    found = msgspec.structs.replace(
        explanation(), remedies=(), causes=(), verdict=verdict, tried=0, plays=0, complete=False
    )
    with RunStore(SyntheticRun().write(tmp_path / "run.sqlite")) as store:
        store.put_document("explanation", 1.0, msgspec.json.encode(found))
        write_reports(store, tmp_path)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "There was no time to play the day twice" in text, name
        assert "No counterfactual was computed" not in text, name


def test_causes_are_a_chart_a_table_and_json(tmp_path: Path) -> None:
    files = written(tmp_path)
    page = files["report.html"].split('id="causes"')[1].split("</section>")[0]
    assert len(re.findall(r'<rect class="cause', page)) == 3
    assert page.count("cause-shapley") == 2
    assert "cause-protects" in page
    assert "## Why it burned" in files["report.md"]
    causes = json.loads(files["report.json"])["causes"]
    assert [cause["mechanism"] for cause in causes][:2] == ["the fault payment-degraded", "retries"]


@pytest.mark.parametrize(("measured", "mark", "word"), [(0.7, "mark-yes", "inside"), (1.9, "mark-no", "outside")])
def test_a_verified_change_shows_predicted_and_measured(tmp_path: Path, measured: float, mark: str, word: str) -> None:
    files = written(tmp_path, verification(measured))
    page = files["report.html"].split('id="counterfactuals"')[1].split("</section>")[0]
    assert f'<span class="{mark}"><i>' in page
    assert f"{measured:.2f}× its budget, {word} the predicted 0.40–0.80×" in page
    assert "../first-verified/report.html" in page
    first = json.loads(files["report.json"])["counterfactuals"][0]
    assert first["verification"]["inside"] is (word == "inside")
    actions = [action["text"] for action in json.loads(files["report.json"])["actions"]]
    wanted = "Adopt" if word == "inside" else "Find out what the twin lacks"
    assert any(text.startswith(wanted) for text in actions)


def test_a_verification_that_was_cut_off_is_no_verification(tmp_path: Path) -> None:
    files = written(tmp_path, verification(None, "aborted"))
    first = json.loads(files["report.json"])["counterfactuals"][0]
    assert first["verified"] is None
    assert first["verification"]["state"] == "aborted"
    assert "tried it: aborted" in files["report.html"]


def test_a_price_that_the_twin_cannot_tell_is_not_told() -> None:
    nothing = msgspec.structs.replace(
        PRICE, p50_change=0.0, p99_change=0.0004, attempts_change=0.0, work_change=0.0, pods=0, places=0
    )
    assert price_words(nothing) == []
    assert price_words(msgspec.structs.replace(nothing, places=-6)) == ["−6 workers and queue places"]
    assert price_words(msgspec.structs.replace(nothing, certificates_per_minute=-3.0)) == ["−3.0 certificates a minute"]
