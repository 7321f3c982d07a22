"""Increases, resets, gaps and windows of one proxy, on a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.viz import history as history_module
from mesh.viz.exposition import Exposition, read
from mesh.viz.flows import COUNTERS, FAILURE, GAUGES, HISTOGRAMS, SUCCESS, Inbound, Meanings
from mesh.viz.history import COARSE_SECONDS, FINE_SECONDS, PodHistory, increase

FLOW = Inbound("", "no_identity", "", "10.0.0.1:80")
BOOT = 100.0


def said(good: float, bad: float = 0, started: float = BOOT, slow: float = 0, extra: str = "") -> Exposition:
    """An exposition of a proxy with so many answers, of which `slow` took more than 10 ms."""
    labels = 'direction="inbound",tls="no_identity",target_addr="10.0.0.1:80"'
    text = f"process_start_time_seconds {started}\n{extra}"
    text += f'response_total{{{labels},classification="success",status_code="200"}} {good}\n'
    text += f'response_total{{{labels},classification="failure",status_code="500"}} {bad}\n' if bad else ""
    total = good + bad
    for bound, count in (("10", total - slow), ("100", total), ("+Inf", total)):
        text += f'response_latency_ms_bucket{{{labels},le="{bound}"}} {count}\n'
    return read(text, frozenset((*COUNTERS, *GAUGES)), HISTOGRAMS)


def scraped(*scrapes: tuple[float, Exposition]) -> PodHistory:
    history, meanings = PodHistory(), Meanings()
    for now, exposition in scrapes:
        history.scraped(now, exposition, meanings)
    return history


def counted(history: PodHistory, since: float, until: float) -> tuple[float, float, float]:
    """Successes, failures, seconds seen."""
    flows, covered = history.window(since, until)
    tally = flows.get(FLOW)
    return (tally.count(SUCCESS), tally.count(FAILURE), covered) if tally is not None else (0.0, 0.0, covered)


def test_a_counter_gains_what_it_grew_by_and_all_of_it_after_a_reset() -> None:
    assert [increase(None, 3), increase(3, 5), increase(5, 5), increase(5, 2)] == [3, 2, 0, 2]


def test_the_first_scrape_of_an_old_process_is_where_counting_begins() -> None:
    assert counted(scraped((1000, said(50)), (1005, said(57, 3))), 0, 2000) == (7, 3, 5)


def test_all_that_a_young_process_did_counts() -> None:
    history = scraped((BOOT + 4, said(9)))
    assert counted(history, 0, 2000) == (9, 0, 4)


def test_a_restart_counts_from_zero_even_past_the_old_value() -> None:
    history = scraped((1000, said(10)), (1005, said(10)), (1010, said(25, started=1006)))
    assert counted(history, 1005, 1010) == (25, 0, 5)


def test_a_reset_that_nobody_announced_counts_from_zero() -> None:
    assert counted(scraped((1000, said(10)), (1005, said(4))), 0, 2000)[0] == 4


def test_a_series_that_is_new_began_at_zero() -> None:
    assert counted(scraped((1000, said(10)), (1005, said(10, bad=2))), 0, 2000) == (0, 2, 5)


def test_missed_scrapes_lose_nothing_and_are_told() -> None:
    history = scraped((1000, said(10)), (1005, said(20)))
    for now in (1010, 1015, 1020):
        history.missed(now, "no answer in time")
    assert (history.missed_since(1005), history.last_miss) == (3, "no answer in time")
    assert counted(history, 1005, 1020) == (0, 0, 0), "what was not seen is not zero: no second of it was"
    history.scraped(1025, said(60), Meanings())
    assert history.last_miss == ""
    assert counted(history, 1005, 1025) == (40, 0, 20)


def test_a_window_takes_its_share_of_the_frame_at_its_edge() -> None:
    history = scraped((1000, said(0)), (1010, said(100)))
    assert counted(history, 1005, 1010) == (50, 0, 5)


def test_latency_is_of_the_window_only() -> None:
    history = scraped((1000, said(100, slow=100)), (1005, said(200, slow=100)))
    flows, _ = history.window(1000, 1005)
    assert flows[FLOW].quantile(0.99) == pytest.approx(9.9)


@given(
    gains=st.lists(st.integers(0, 50), min_size=1, max_size=150),
    restarts=st.sets(st.integers(0, 149), max_size=4),
    missed=st.sets(st.integers(0, 149), max_size=40),
)
def test_whatever_happens_between_scrapes_each_answer_counts_once(
    gains: list[int], restarts: set[int], missed: set[int]
) -> None:
    """Except those that a process had counted between its last scrape and its end: those nobody can know."""
    history, meanings = PodHistory(), Meanings()
    history.scraped(1000.0, said(0), meanings)
    value, started, expected, unseen = 0, BOOT, 0, 0
    now = 1000.0
    for index, gain in enumerate(gains):
        now += 4.0
        if index in restarts:
            value, started = 0, now - 2.0
            unseen = 0
        value += gain
        unseen += gain
        if index in missed:
            history.missed(now, "away")
            continue
        history.scraped(now, said(value, started=started), meanings)
        expected += unseen
        unseen = 0
    got, _, covered = counted(history, 0, now + 1)
    assert got == pytest.approx(expected if now - 1000.0 <= history.retain else got)
    assert covered <= now - 1000.0 + 1e-6
    for frame, following in zip(list(history.frames), list(history.frames)[1:], strict=False):
        assert frame.end <= following.start


def test_ten_minutes_are_kept_in_few_frames_and_no_more() -> None:
    history, meanings = PodHistory(), Meanings()
    for index in range(400):
        history.scraped(1000.0 + 5 * index, said(10 * index), meanings)
    now = 1000.0 + 5 * 399
    assert len(history.frames) <= FINE_SECONDS / 5 + history.retain / COARSE_SECONDS + 2
    assert now - history.frames[0].start <= history.retain + COARSE_SECONDS
    assert counted(history, now - 60, now) == (120, 0, 60)
    assert counted(history, now - 600, now) == (pytest.approx(1200), 0, pytest.approx(600))


def test_a_pod_with_too_many_series_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_FLOWS", 3)
    extra = "".join(
        f'response_total{{direction="inbound",client_id="c{index}",classification="success"}} {{}}\n'
        for index in range(10)
    )
    history = scraped((1000, said(1, extra=extra.replace("{}", "1"))), (1005, said(2, extra=extra.replace("{}", "2"))))
    assert len(history.frames[-1].flows) == 3
    assert history.cut > 0
