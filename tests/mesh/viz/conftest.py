"""These tests scrape and tap the real proxies of the proxies' own test world."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "proxy"))
