from gameday.accuracy import ScoredRun, has_effect, render
from sim.results import Score, Scored


def row(
    quantity: str = "success_rate", measured: float | None = 0.5, naive: float | None = 1.0, **more: object
) -> Scored:
    values = {
        "subject": "checkout",
        "window": "inject",
        "low": 0.4,
        "median": 0.5,
        "high": 0.6,
        "inside": True,
        "crps": 0.1,
        "crps_naive": 0.5,
    }
    return Scored(quantity=quantity, measured=measured, naive=naive, **{**values, **more})  # type: ignore[arg-type]


def page(*rows: Scored) -> str:
    return render([ScoredRun("cert-expiry", 3, Score(rows=rows, coverage=1, crps=0.1, crps_naive=0.5, skill=0.8))], [])


def test_a_miss_is_listed_with_all_its_numbers() -> None:
    text = page(row(), row("p95", 0.9, 0.05, inside=False, low=0.1, median=0.2, high=0.3))
    assert "| cert-expiry | 3 | p95 | checkout | inject | 0.1 | 0.2 | 0.3 | 0.9 | 0.05 |" in text
    assert "| cert-expiry | 1 | 2 | 50% |" in text


def test_rows_without_a_measurement_count_nowhere() -> None:
    text = page(row(), row("p99", None, inside=None, crps=None, crps_naive=None))
    assert "| cert-expiry | 1 | 1 | 100% |" in text


def test_a_fault_has_an_effect_when_it_moves_a_quantity_beyond_noise() -> None:
    assert has_effect(row(measured=0.95, naive=1.0))
    assert not has_effect(row(measured=0.99, naive=1.0))
    assert has_effect(row("p95", 0.065, 0.05))
    assert not has_effect(row("p95", 0.055, 0.05))
