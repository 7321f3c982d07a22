"""All faults. A new one is a file beside this one and a line here."""

from __future__ import annotations

from chaos.faults.app_degrade import AppDegrade
from chaos.faults.base import Fault
from chaos.faults.cert_expiry import CertExpiry
from chaos.faults.control_plane_down import ControlPlaneDown
from chaos.faults.pod_kill import PodKill

FAULTS: dict[str, Fault] = {fault.kind: fault for fault in (ControlPlaneDown(), CertExpiry(), AppDegrade(), PodKill())}
