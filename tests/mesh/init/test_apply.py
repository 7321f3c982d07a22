"""Which iptables is used, and what is said when none works. Commands are played by a table of answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mesh.init.__main__ import main
from mesh.init.apply import ApplyFailed, Outcome, apply, has_ipv6, run_command
from mesh.init.rules import RedirectConfig

OK = Outcome(0, "", "")
CONFIG = RedirectConfig()


class Kernel:
    """Tools by name; each run is remembered."""

    def __init__(self, **failing: str) -> None:
        self.failing = {name.replace("_", "-"): text for name, text in failing.items()}
        self.ran: list[str] = []

    def run(self, command: Sequence[str], given: str) -> Outcome:
        self.ran.append(command[0])
        text = self.failing.get(command[0])
        return OK if text is None else Outcome(1, "", text)


def test_the_preferred_variant_is_used_where_it_works() -> None:
    kernel = Kernel()
    assert apply(CONFIG, prefer="legacy", ipv6=False, run=kernel.run) == "legacy"
    assert kernel.ran == ["iptables-legacy-save", "iptables-legacy-restore"]


@pytest.mark.parametrize("tool", ["iptables_nft_save", "iptables_nft_restore"])
def test_the_other_variant_takes_over_where_the_preferred_one_cannot(tool: str) -> None:
    kernel = Kernel(**{tool: "Could not fetch rule set generation id"})
    assert apply(CONFIG, prefer="nft", ipv6=False, run=kernel.run) == "legacy"
    assert kernel.ran[-1] == "iptables-legacy-restore"


def test_ipv6_has_tools_of_its_own() -> None:
    kernel = Kernel()
    apply(CONFIG, prefer="nft", ipv6=True, run=kernel.run)
    assert kernel.ran == ["ip6tables-nft-save", "ip6tables-nft-restore"]


def test_where_none_works_both_reasons_stand_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = Kernel(iptables_nft_save="# Warning: x\nnot permitted\nmore", iptables_legacy_restore="no REDIRECT")
    with pytest.raises(ApplyFailed, match="iptables-nft: not permitted; iptables-legacy: no REDIRECT"):
        apply(CONFIG, prefer="nft", ipv6=False, run=kernel.run)
    assert main([], kernel.run) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "needs NET_ADMIN" in said


def test_wrong_flags_end_it_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--inbound-ports-to-ignore", "25,http"], Kernel().run)
    assert ended.value.code == 2
    assert "'http' is neither a port" in capsys.readouterr().err


def test_a_missing_program_is_a_failed_one() -> None:
    assert run_command(["no-such-iptables"], "").error == "no no-such-iptables in this image"


def test_only_global_addresses_count_as_ipv6() -> None:
    lo = "00000000000000000000000000000001 01 80 10 80       lo\n"
    link = "fe800000000000000042acfffe110002 02 40 20 80     eth0\n"
    pod = "fd00000000000000000000000000000a 02 40 00 80     eth0\n"
    assert not has_ipv6(lo + link)
    assert has_ipv6(lo + link + pod)
    assert not has_ipv6("")
