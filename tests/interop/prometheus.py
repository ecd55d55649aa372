"""Where Prometheus' own checker is."""

from __future__ import annotations

import os
import shutil
from typing import Final

# Debian's package starts a server when it is installed, so the session unpacks it instead.
PROMTOOL: Final = os.environ.get("PROMTOOL", "promtool")


def missing_for_promtool() -> str | None:
    """What the tests marked `promtool` lack here, if anything."""
    if shutil.which(PROMTOOL) is None:
        return "there is no promtool on the path, nor does PROMTOOL name it"
    return None
