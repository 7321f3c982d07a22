"""Certificate expiry (F3): identity stays away until leaves run out. Nothing is faked.

The certificates are real, their lives are short for the drill, and proxies fail to renew because nobody answers. New
handshakes then fail in OpenSSL; established connections live.
"""

from __future__ import annotations

from chaos.faults.control_plane_down import ControlPlaneDown
from mesh.api.durations import format_duration
from scenarios.model import FaultSpec, Scenario


class CertExpiry(ControlPlaneDown):
    kind = "cert-expiry"
    summary = "Identity is killed and stays away until the proxies' certificates have expired."

    def describe(self, spec: FaultSpec) -> str:
        return "identity killed and kept down past the leaves' life"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        meshed = sum(service.replicas for service in scenario.app.services if service.meshed)
        life = format_duration(scenario.identity.leaf_lifetime)
        return ["control plane: identity", f"certificates of {meshed} pods and of the control plane ({life} each)"]

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        life = scenario.identity.leaf_lifetime + scenario.identity.clock_skew
        if spec.duration > life:
            return None
        return (
            f"identity is away for {format_duration(spec.duration)}, a leaf lives up to {format_duration(life)}:"
            " some leaves, perhaps all, will not expire"
        )
