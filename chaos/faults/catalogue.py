"""All faults. A new one is a file beside this one and a line here."""

from __future__ import annotations

from chaos.faults.app_degrade import AppDegrade
from chaos.faults.base import Fault
from chaos.faults.cert_expiry import CertExpiry
from chaos.faults.control_plane_down import ControlPlaneDown
from chaos.faults.misroute import Misroute
from chaos.faults.network_throttle import NetworkThrottle
from chaos.faults.pod_kill import PodKill
from chaos.faults.proxy_oom import ProxyOom
from chaos.faults.telemetry_loss import TelemetryLoss

_ALL: tuple[Fault, ...] = (
    ControlPlaneDown(),
    ProxyOom(),
    CertExpiry(),
    AppDegrade(),
    TelemetryLoss(),
    Misroute(),
    NetworkThrottle(),
    PodKill(),
)
FAULTS: dict[str, Fault] = {fault.kind: fault for fault in _ALL}
