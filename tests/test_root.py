"""The root package: every name of the public API, imported when it is first used, and no torch before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kartina


@pytest.mark.parametrize("name", sorted(kartina._WHERE))
def test_every_name_is_there(name: str) -> None:
    assert callable(getattr(kartina, name)) and name in dir(kartina) and name in kartina.__all__


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        _ = kartina.sampel


def test_importing_loads_no_torch() -> None:
    code = "import kartina, sys; kartina.inspect; kartina.import_data; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
