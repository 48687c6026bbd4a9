"""Print what pip is set to (another index, links to files), as arguments for uv, which does not read pip's settings."""

import ast
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

OPTIONS = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}


def there(place: str) -> bool:
    """What pip passes over with a warning ends uv."""
    url = urlparse(place)
    return url.scheme not in ("", "file") or Path(url.path).exists()


listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
for line in listed.stdout.splitlines():
    name, _, value = line.partition("=")
    option = OPTIONS.get(name.rpartition(".")[2])
    places = ast.literal_eval(value).split() if option else []
    for place in filter(there, places):
        print(option, place)
print("--index-strategy unsafe-best-match")  # among several, as pip chooses
