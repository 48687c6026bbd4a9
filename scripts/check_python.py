"""Refuse, in one sentence, a Python that cannot make the environment. Exit code 2 names what to install."""

import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    print(
        f"Found Python {found}; Kartina needs 3.11 or newer. Install it, or: make PYTHON=python3.12 ...",
        file=sys.stderr,
    )
    sys.exit(2)
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    print(f"Found a Python without venv; install the package {package} (apt install {package}).", file=sys.stderr)
    sys.exit(2)
