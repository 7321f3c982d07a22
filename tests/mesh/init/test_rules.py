"""The rules as text: what is redirected, in which order, however often and with whatever was there before."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.init.rules import (
    MULTIPORT_MAX,
    InvalidRules,
    RedirectConfig,
    merged,
    multiport_groups,
    parse_ports,
    parse_subnets,
    restore_input,
)

RANGES = st.lists(
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: (min(pair), max(pair))), max_size=60
)


def rules(config: RedirectConfig, chain: str, **options: bool) -> list[str]:
    """Matches and target of a chain's rules, without comments."""
    found = []
    for line in restore_input(config, **options).splitlines():  # type: ignore[arg-type]
        words = line.split()
        if words[:2] == ["-A", chain]:
            at = words.index("--comment") - 2
            found.append(" ".join(words[2:at] + words[at + 4 :]))
    return found


def test_inbound_ignores_own_ports_then_subnets_and_redirects_the_rest() -> None:
    config = RedirectConfig(ignored_inbound=((25, 25), (4190, 4191)), ignored_subnets=("10.1.0.0/16", "fd00::/8"))
    assert rules(config, "PROXY_INIT_REDIRECT") == [
        "-p tcp -m multiport --dports 25,4190:4191 -j RETURN",
        "-s 10.1.0.0/16 -j RETURN",
        "-p tcp -j REDIRECT --to-ports 4143",
    ]
    assert rules(config, "PROXY_INIT_REDIRECT", ipv6=True)[1] == "-s fd00::/8 -j RETURN"
    assert rules(config, "PREROUTING") == ["-j PROXY_INIT_REDIRECT"]


def test_outbound_lets_the_proxy_loopback_and_ignored_ports_pass_in_this_order() -> None:
    config = RedirectConfig(proxy_gid=7, ignored_outbound=((4567, 4568),))
    assert rules(config, "PROXY_INIT_OUTPUT") == [
        "-m owner --uid-owner 2102 -j RETURN",
        "-m owner --gid-owner 7 -j RETURN",
        "-o lo -j RETURN",
        "-p tcp -m multiport --dports 4567:4568 -j RETURN",
        "-p tcp -j REDIRECT --to-ports 4140",
    ]
    assert rules(config, "OUTPUT") == ["-j PROXY_INIT_OUTPUT"]


def test_jumps_of_a_former_run_are_replaced_in_the_same_transaction_and_foreign_rules_stay() -> None:
    existing = """\
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m comment --comment "proxy-init/install proxy-init prerouting" -j PROXY_INIT_REDIRECT
-A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 82
-A OUTPUT -j PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT -o lo -j RETURN
COMMIT
"""
    lines = restore_input(RedirectConfig(), existing=existing).splitlines()
    assert [line for line in lines if line.startswith("-D")] == [
        '-D PREROUTING -m comment --comment "proxy-init/install proxy-init prerouting" -j PROXY_INIT_REDIRECT',
        "-D OUTPUT -j PROXY_INIT_OUTPUT",
    ]
    assert sum(line.endswith("-j PROXY_INIT_OUTPUT") and line.startswith("-A") for line in lines) == 1
    assert lines[0] == "*nat"
    assert lines[-1] == "COMMIT"
    assert lines.count("COMMIT") == 1


@given(RANGES)
def test_groups_hold_all_ports_and_never_more_than_one_match_can(ranges: list[tuple[int, int]]) -> None:
    wanted = merged(ranges)
    groups = multiport_groups(wanted)
    seen = []
    for group in groups:
        parts = group.split(",")
        assert sum(2 if ":" in part else 1 for part in parts) <= MULTIPORT_MAX
        seen += [(int(part.partition(":")[0]), int(part.rpartition(":")[2])) for part in parts]
    assert tuple(seen) == wanted


@given(RANGES)
def test_merging_keeps_the_set_of_ports(ranges: list[tuple[int, int]]) -> None:
    result = merged(ranges)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(result))
    for low, high in ranges:
        assert any(first <= low and high <= last for first, last in result)
    covered = sum(high - low + 1 for low, high in result)
    assert covered == len(set().union(*(range(low, high + 1) for low, high in ranges)))


@pytest.mark.parametrize(("text", "said"), [("80,http", "'http'"), ("0", "not within"), ("9-3", "9-3"), ("70000", "7")])
def test_wrong_ports_are_named(text: str, said: str) -> None:
    with pytest.raises(InvalidRules, match=said):
        parse_ports(text)


def test_ports_and_subnets_as_annotations_write_them() -> None:
    assert parse_ports(" 25, 8000-8002,8003 ,25") == ((25, 25), (8000, 8003))
    assert parse_ports("") == ()
    assert parse_subnets("10.0.0.0/8, fd00::/8,10.9.9.9") == ("10.0.0.0/8", "fd00::/8", "10.9.9.9/32")
    with pytest.raises(InvalidRules, match=r"'10\.0\.0\.1/8' is not a network"):
        parse_subnets("10.0.0.1/8")
    assert ip_network(parse_subnets("fd00::1")[0]).prefixlen == 128
