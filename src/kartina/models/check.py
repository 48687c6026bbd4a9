"""Check a package as loading it would, in a process of its own (`kartina.models.check FOLDER`).

Prints one line of JSON: {} when its weights fit the architecture (built on the meta device), else {"code", "message"}.
The API process runs this for what comes from outside: it loads no torch itself, and outlives whatever the check meets.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kartina.errors import KartinaError
from kartina.models.model import load
from kartina.models.package import PackageRef, read_manifest


def main() -> None:
    path = Path(sys.argv[1])
    try:
        manifest = read_manifest(path)
        load(PackageRef(name=manifest.name, version=manifest.version, path=path, bundled=False))
    except KartinaError as error:
        print(json.dumps({"code": error.code, "message": str(error)}))
    else:
        print("{}")
