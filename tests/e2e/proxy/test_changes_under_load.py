"""The mesh changes under load and loses no request: endpoints, policies, certificates, each and all together.

The bench (`python -m benchmarks.stalls`) does it at 2,000 requests a second and also measures the event loop's stalls.
"""

from __future__ import annotations

import pytest

from benchmarks.machine import raise_descriptor_limit
from benchmarks.stalls import Effort, findings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

EFFORT = Effort(rate=200, replicas=40, seconds=6.0, leaf_lifetime="3s", min_refresh="1s")


def test_endpoint_churn_policy_changes_and_certificate_rotation_lose_nothing() -> None:
    raise_descriptor_limit()
    found = list(findings(EFFORT, ["all at once"]))
    lost = [finding for finding in found if "lost" in finding.what]
    assert len(lost) == 2
    assert all(finding.met for finding in lost), "\n".join(map(str, lost))
    assert " 0 renewals" not in lost[0].remark, "no certificate was renewed: nothing was tested"
    assert "; 0 changes" not in lost[0].remark
