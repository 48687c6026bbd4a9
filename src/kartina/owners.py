"""Whose a folder in KARTINA_HOME is: a data set, a run, a study. Where nothing is said, it is the local session's.

    owners.write(folder, caller.owner)      # beside what is in it, before it is moved to its place
    owners.sees(folder, caller.owner)       # False: for this one it is not there

The command line writes no such file, so what it makes is the local session's; an API key sees what was made with it.
"""

from __future__ import annotations

from pathlib import Path

LOCAL = "local"  # the owner of what the command line and the local session make
FILE = "owner"


def write(folder: Path, owner: str) -> None:
    """Say whose a folder is. Raises OSError."""
    if owner != LOCAL:
        (folder / FILE).write_text(owner, encoding="utf-8")


def read(folder: Path) -> str:
    """The owner of a folder; of one whose owner cannot be read, nobody ("")."""
    try:
        return (folder / FILE).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return LOCAL
    except (OSError, ValueError):
        return ""


def sees(folder: Path, owner: str) -> bool:
    """Whether `owner` is whose the folder is."""
    return read(folder) == owner
