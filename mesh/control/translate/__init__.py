"""From the resources that users write to the messages that proxies read. Pure: the twin calls the same functions.

    ServiceProfile, TrafficSplit ─► Profile        profiles.py
    Service, its routes ──────────► OutboundPolicy outbound.py, matches.py, filters.py, protocols.py, annotations.py
    EgressNetwork, its routes ────► OutboundPolicy egress.py
    Pod, Namespace, Server, its
    authorizations, HTTPRoutes
    and rate limit ─────────────► InboundPolicy    inbound.py, inbound_routes.py, authorizations.py

Semantics are Linkerd's destination and policy controllers'. A wrong value is reported to `complain` and then treated as
they treat it (ignored with its group, or its whole route); `mesh.control.registry.lint` turns the same complaints into
errors before anything starts.
"""

from mesh.control.translate.inbound import inbound_policy_message
from mesh.control.translate.outbound import outbound_policy_message
from mesh.control.translate.problems import Complain, ignore_problems
from mesh.control.translate.profiles import profile_message

__all__ = ["Complain", "ignore_problems", "inbound_policy_message", "outbound_policy_message", "profile_message"]
