"""These tests scrape and tap the real proxies of the proxies' own test world, and ask the API server's own fake."""

from __future__ import annotations

import sys
from pathlib import Path

for _folder in ("proxy", "kube"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _folder))
