"""The checks, by category. What runs when stands here; a new check is one line in its category's table."""

from __future__ import annotations

from mesh.commands.check.checks import dataplane, existence, identity, kubernetes, pre, versions, viz, webhooks
from mesh.commands.check.judge import Category

PRE: tuple[Category, ...] = (*kubernetes.CATEGORIES, pre.CATEGORY)
"""`--pre`: may the mesh be installed?"""
INSTALLED: tuple[Category, ...] = (
    *kubernetes.CATEGORIES,
    *existence.CATEGORIES,
    *identity.CATEGORIES,
    webhooks.CATEGORY,
    versions.CATEGORY,
)
DATA_PLANE: tuple[Category, ...] = (*INSTALLED, *dataplane.CATEGORIES)
"""`--proxy`: the control plane and the proxies."""
DEFAULT: tuple[Category, ...] = (*INSTALLED, viz.CATEGORY)
