"""Applies the rules with whichever iptables works here: nf_tables or the legacy tables of the kernel.

    for the preferred variant, then the other one:
        iptables-VARIANT-save -t nat ─► restore_input ─► iptables-VARIANT-restore --noflush
        both work ─► done; else its first line of complaint is kept

Nodes differ: new ones may have no legacy tables, old kernels no nf_tables, and some nf_tables without what REDIRECT
needs. Only an attempt tells, and since an attempt is atomic a failed one leaves nothing behind. IPv6 is applied where
the pod has an IPv6 address; without one, ip6tables may well be missing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.init.rules import RedirectConfig, restore_input

VARIANTS = ("nft", "legacy")
LOCK_SECONDS = 5
"""How long the legacy tools wait for each other."""
TIMEOUT_SECONDS = 20.0
IF_INET6 = "/proc/net/if_inet6"
GLOBAL_SCOPE = "00"


class ApplyFailed(Exception):
    """No variant took the rules; the text says why each did not, on one line."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command said."""

    status: int
    output: str
    error: str


Run = Callable[[Sequence[str], str], Outcome]
"""Runs a command with that standard input."""


def run_command(command: Sequence[str], given: str) -> Outcome:
    """The real `Run`. A program that is missing or hangs is a failed one."""
    try:
        done = subprocess.run(
            list(command), input=given, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except FileNotFoundError:
        return Outcome(127, "", f"no {command[0]} in this image")
    except OSError as error:
        return Outcome(126, "", f"{command[0]}: {error.strerror or error}")
    except subprocess.TimeoutExpired:
        return Outcome(124, "", f"{command[0]}: no answer within {TIMEOUT_SECONDS:g} s")
    return Outcome(done.returncode, done.stdout, done.stderr)


def apply(config: RedirectConfig, *, prefer: str, ipv6: bool, run: Run = run_command) -> str:
    """Redirects one family's connections; the variant that did it.

    Raises:
        ApplyFailed: neither variant works here.
    """
    complaints = []
    for variant in sorted(VARIANTS, key=lambda variant: variant != prefer):
        tool = f"ip{'6' if ipv6 else ''}tables-{variant}"
        found = run([f"{tool}-save", "-t", "nat"], "")
        if found.status == 0:
            rules = restore_input(config, ipv6=ipv6, existing=found.output)
            found = run([f"{tool}-restore", "--noflush", "--wait", str(LOCK_SECONDS)], rules)
            if found.status == 0:
                return variant
        complaints.append(f"{tool}: {_first_line(found)}")
    raise ApplyFailed("; ".join(complaints))


def has_ipv6(if_inet6: str) -> bool:
    """Whether a listing as of /proc/net/if_inet6 has an address that is neither loopback nor link-local."""
    return any(fields[3] == GLOBAL_SCOPE for fields in map(str.split, if_inet6.splitlines()) if len(fields) >= 6)


def _first_line(outcome: Outcome) -> str:
    lines = [line.strip() for line in outcome.error.splitlines() if line.strip() and not line.startswith("#")]
    return lines[0] if lines else f"exit code {outcome.status}"
