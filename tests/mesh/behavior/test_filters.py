"""What filters do to requests and responses; expected values are the Gateway API's."""

from __future__ import annotations

from random import Random

import pytest

from mesh.api.messages import (
    FailureSpec,
    FiltersSpec,
    HeaderChange,
    MirrorSpec,
    PathChange,
    RedirectSpec,
    RewriteSpec,
)
from mesh.behavior.filters import Filters, compile_filters


def filters(**fields: object) -> Filters:
    made = compile_filters(FiltersSpec(**fields))  # type: ignore[arg-type]
    assert made is not None
    return made


def test_no_filters_compile_to_none() -> None:
    assert compile_filters(None) is None
    assert compile_filters(FiltersSpec()) is None


# ---- headers

CHANGE = HeaderChange(set=(("a", "new"),), add=(("b", "2"),), remove=("c",))


def test_set_replaces_add_appends_and_remove_takes_out() -> None:
    headers = [(b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"a", b"2")]
    kept = list(headers)
    changed = filters(request_headers=CHANGE).request(b"/", b"h", headers)[2]
    assert changed == [(b"b", b"1"), (b"a", b"new"), (b"b", b"2")]
    assert headers == kept, "the request's own list stays as it is"


def test_responses_have_headers_of_their_own() -> None:
    made = filters(response_headers=CHANGE)
    assert made.changes_responses
    assert made.response([(b"c", b"x")]) == [(b"a", b"new"), (b"b", b"2")]
    assert made.request(b"/", b"h", [(b"c", b"x")]) == (b"/", b"h", [(b"c", b"x")])
    assert not filters(request_headers=CHANGE).changes_responses


# ---- paths


@pytest.mark.parametrize(
    ("path", "prefix", "value", "expected"),
    [  # the table of HTTPPathModifier in the Gateway API
        (b"/foo/bar", "/foo", "/xyz", b"/xyz/bar"),
        (b"/foo/bar", "/foo", "/xyz/", b"/xyz/bar"),
        (b"/foo/bar", "/foo/", "/xyz", b"/xyz/bar"),
        (b"/foo/bar", "/foo/", "/xyz/", b"/xyz/bar"),
        (b"/foo", "/foo", "/xyz", b"/xyz"),
        (b"/foo/", "/foo", "/xyz", b"/xyz/"),
        (b"/foo/bar", "/foo", "", b"/bar"),
        (b"/foo/", "/foo", "", b"/"),
        (b"/foo", "/foo", "", b"/"),
        (b"/foo/", "/foo", "/", b"/"),
        (b"/foo", "/foo", "/", b"/"),
        (b"/foo/bar?q=/foo", "/foo", "/xyz", b"/xyz/bar?q=/foo"),
        (b"/foo?q=1", "/foo", "", b"/?q=1"),
        (b"/any/thing", "/", "/v2", b"/v2/any/thing"),
        (b"/any?x", None, "/full", b"/full?x"),
    ],
)
def test_a_rewritten_path(path: bytes, prefix: str | None, value: str, expected: bytes) -> None:
    made = filters(rewrite=RewriteSpec(path=PathChange(value=value, prefix=prefix)))
    assert made.request(path, b"h", [])[0] == expected


def test_a_rewritten_host_is_the_authority_and_the_headers_stay() -> None:
    made = filters(rewrite=RewriteSpec(hostname="v2.shop"))
    assert made.request(b"/x", b"cart:80", [(b"a", b"b")]) == (b"/x", b"v2.shop", [(b"a", b"b")])


# ---- redirects


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (RedirectSpec(hostname="other"), (302, b"http://other:8080/a?b=c")),
        (RedirectSpec(hostname="other", status=301), (301, b"http://other:8080/a?b=c")),
        (RedirectSpec(scheme="https"), (302, b"https://cart/a?b=c")),
        (RedirectSpec(scheme="https", port=8443), (302, b"https://cart:8443/a?b=c")),
        (RedirectSpec(port=80), (302, b"http://cart/a?b=c")),
        (RedirectSpec(scheme="http", port=443), (302, b"http://cart:443/a?b=c")),
        (RedirectSpec(path=PathChange(value="/z")), (302, b"http://cart:8080/z?b=c")),
        (RedirectSpec(path=PathChange(value="/z?own=1")), (302, b"http://cart:8080/z?own=1")),
        (RedirectSpec(path=PathChange(value="/z", prefix="/a")), (302, b"http://cart:8080/z?b=c")),
    ],
)
def test_a_redirect_keeps_what_it_does_not_name(rule: RedirectSpec, expected: tuple[int, bytes]) -> None:
    assert filters(redirect=rule).redirect(b"http", b"cart:8080", b"/a?b=c") == expected


def test_a_redirect_to_where_the_request_came_from_is_none() -> None:
    assert filters(redirect=RedirectSpec(hostname="cart")).redirect(b"http", b"cart:8080", b"/a") is None


def test_without_a_redirect_there_is_none() -> None:
    assert filters(request_headers=CHANGE).redirect(b"http", b"cart", b"/") is None


# ---- mirrors and failures


def test_mirrors_copy_their_share() -> None:
    always, some, never = filters(
        mirrors=(
            MirrorSpec(authority="a"),
            MirrorSpec(authority="b", percent=10.0),
            MirrorSpec(authority="c", percent=0.0),
        )
    ).mirrors
    rng = Random(2)
    assert [m.authority for m in (always, some, never)] == ["a", "b", "c"]
    assert all(always.wanted(rng) for _ in range(100))
    assert not any(never.wanted(rng) for _ in range(1_000))
    assert 800 < sum(some.wanted(rng) for _ in range(10_000)) < 1_200


def test_an_injected_failure_answers_its_share() -> None:
    rng = Random(2)
    assert filters(failure=FailureSpec(status=503)).failure(rng) == 503
    some = filters(failure=FailureSpec(status=503, percent=25.0))
    answered = [some.failure(rng) for _ in range(10_000)]
    assert set(answered) == {503, None}
    assert 2_200 < answered.count(503) < 2_800
    assert filters(request_headers=CHANGE).failure(rng) is None
