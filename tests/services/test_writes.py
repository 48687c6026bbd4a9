"""Two threads that write one record: the file is always one of the two, whole."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kartina.services import records


def test_concurrent_writes_of_one_record(tmp_path: Path) -> None:
    path = tmp_path / "record.json"

    def write(who: int) -> None:
        for i in range(100):
            records._write(path, json.dumps({"who": who, "i": i, "pad": "x" * 5000}).encode(), durable=False)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, who) for who in range(4)]:
            done.result()
    assert json.loads(path.read_text())["i"] == 99
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
