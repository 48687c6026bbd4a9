"""Print the API's OpenAPI document: `python -m kartina.api.openapi > web/openapi.json`."""

from __future__ import annotations

import json
import sys
from typing import Any


def document() -> dict[str, Any]:
    """The OpenAPI document, made without a running service."""
    from kartina.api.app import create_app
    from kartina.api.security import LocalAccess
    from kartina.serving.client import LocalEngine

    return create_app(LocalEngine("/nowhere"), LocalAccess(port=0)).openapi()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=1) + "\n")
