"""CustomResourceDefinitions: everything of Linkerd's API that this mesh acts on.

Types, required fields, ranges and choices are those that `mesh.api.resources` and the linter know (a test holds them
against each other). What needs more than one field is CEL; what needs judgement is the validating webhook's.
"""

from __future__ import annotations

from typing import Any

from mesh.deploy.crds.inbound import inbound
from mesh.deploy.crds.outside import egress_network, external_workload
from mesh.deploy.crds.profiles import service_profile
from mesh.deploy.crds.routes import gateway_routes, policy_http_route

__all__ = ["crds", "gateway_routes"]


def crds() -> list[dict[str, Any]]:
    """Every CRD of an install, without the Gateway API's."""
    return [service_profile(), *inbound(), policy_http_route(), egress_network(), external_workload()]
