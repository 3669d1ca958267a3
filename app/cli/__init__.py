"""The terminal client. Importing any of it settles what httpx must not drag in."""

import sys

# The command line of httpx, which nobody runs here: click and half of rich, a tenth of the start.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None: as if it were not installed
