"""Processes that others start."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kartina.process import command_of

MODULE = """
import gc, sys
CYCLES = [[] for _ in range(50_000)]
WHILE_LOADING = gc.isenabled()

def main():
    print(sys.argv[1:], WHILE_LOADING, gc.isenabled(), gc.get_freeze_count() > 50_000)
    return 7
"""


def test_a_module_is_loaded_without_collections_and_its_main_runs_with_them(tmp_path: Path) -> None:
    (tmp_path / "started.py").write_text(MODULE)
    done = subprocess.run(
        command_of("started", "--flag", "word"), env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "['--flag', 'word'] False True True\n", "")
