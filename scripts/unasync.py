"""Write the synchronous client from the asynchronous one: kartina/client/asynchronous -> kartina/client/synchronous.

Word for word, with the words below changed. `--check` only tells whether it is current.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "src" / "kartina" / "client"
HEADER = "# Made from {name} by scripts/unasync.py. Do not edit.\n\n"
WORDS = {
    r"import asyncio\n": "from kartina.client import blocking\n",
    r"\basyncio\.": "blocking.",
    r"\bawait ": "",
    r"\basync (def|with|for)\b": r"\1",
    r"\b__a(enter|exit)__\b": r"__\1__",
    r"\ba(sync)?contextmanager\b": "contextmanager",
    r"\ba(iter_bytes|read|close|closing)\b": r"\1",
    r"\.asynchronous\b": ".synchronous",
    r"\bhttpx2\.Async(\w+)": r"httpx2.\1",
    r"\bAsync(\w+)": r"\1",
}


def synchronous(text: str, name: str) -> str:
    """The synchronous form of a module's text."""
    for pattern, word in WORDS.items():
        text = re.sub(pattern, word, text)
    assert "async" not in text.lower(), f"{name}: {re.findall(r'.*async.*', text, re.IGNORECASE)}"
    return HEADER.format(name=f"asynchronous/{name}") + text


def tidy(text: str) -> str:
    """As ruff formats it."""
    for command in (["check", "--fix", "--select", "I,F401,UP028,SIM117", "--unsafe-fixes"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", str(CLIENT / "made.py"), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def made() -> dict[Path, str]:
    """Every synchronous module and its text."""
    found = {}
    for source in sorted((CLIENT / "asynchronous").glob("*.py")):
        text = source.read_text()
        found[CLIENT / "synchronous" / source.name] = tidy(synchronous(text, source.name)) if text else ""
    return found


def main() -> int:
    for path, text in made().items():
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text() != text:
                print(f"{path} is not what scripts/unasync.py makes. Run it and commit the result.", file=sys.stderr)
                return 1
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
