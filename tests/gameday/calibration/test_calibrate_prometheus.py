"""`gameday calibrate --prometheus` where there is none, or one that does not know what is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from foreign_app import Scraped, app_file, prometheus, scraped

from gameday.calibration.command import CalibrateOptions, calibrated
from gameday.errors import BadInput


def ask(folder: Path, url: str, window: str = "2m") -> str:
    with pytest.raises(BadInput) as raised:
        calibrated(CalibrateOptions(prometheus=url, app=app_file(folder), window=window))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_an_unreachable_prometheus_is_said_in_one_line(tmp_path: Path) -> None:
    with prometheus(None) as url:
        pass
    assert "not reachable" in ask(tmp_path, url)


@pytest.mark.parametrize(
    "address", ["prometheus:9090", "http://[::bad", "http://127.0.0.1:port", "http://a b", "http://a\x00b"]
)
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    assert f"--prometheus {address}: " in ask(tmp_path, address)


def test_another_server_is_not_taken_for_a_prometheus(tmp_path: Path) -> None:
    with prometheus(None, body=b"<html>Grafana</html>") as url:
        assert "not JSON" in ask(tmp_path, url)
    with prometheus(None, body=b"<html>", status=404) as url:
        assert "answered 404" in ask(tmp_path, url)


def test_what_prometheus_says_is_passed_on(tmp_path: Path) -> None:
    body = json.dumps({"status": "error", "errorType": "execution", "error": "query timed out"}).encode()
    with prometheus(None, body=body) as url:
        assert "query timed out" in ask(tmp_path, url)
    with prometheus(None, body=body, status=503) as url:
        assert "query timed out" in ask(tmp_path, url)


def test_no_such_metric_is_told_from_another_namespace(tmp_path: Path) -> None:
    with prometheus(Scraped()) as url:
        assert "does not scrape Linkerd's proxies" in ask(tmp_path, url)
    moved = Scraped(
        {
            (n, tuple((k, v.replace("books", "films")) for k, v in labels)): s
            for (n, labels), s in scraped().values.items()
        }
    )
    with prometheus(moved) as url:
        assert "none in namespace books" in ask(tmp_path, url)


def test_a_window_of_few_scrapes_is_refused_with_the_one_that_is_needed(tmp_path: Path) -> None:
    with prometheus(scraped(seconds=120.0, interval=60.0)) as url:
        message = ask(tmp_path, url)
    assert "scraped every 60 s" in message
    assert "300s" in message


def test_an_answer_of_another_shape_is_refused(tmp_path: Path) -> None:
    for body in (
        b"[]",
        b'{"status": "success"}',
        b'{"status": "success", "data": {"resultType": "vector", "result": []}}',
        b'{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "2"]]}]}}',
        b'{"status": "success", "data": {"resultType": "matrix", "result": [7]}}',
    ):
        with prometheus(None, body=body) as url:
            ask(tmp_path, url)
