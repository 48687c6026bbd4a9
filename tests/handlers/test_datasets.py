"""Jobs on data sets: archives of strangers are read within bounds; a killed import begins anew, or is done."""

from __future__ import annotations

import io
import resource
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kartina import owners
from kartina.data import imageset
from kartina.errors import DataError, NotFoundError
from kartina.handlers.datasets import MARK, import_data, inspect
from kartina.jobs.context import Context, Interrupted
from kartina.jobs.table import Jobs
from kartina.services.datasets import Datasets
from kartina.storage.ids import new_id
from kartina.storage.records import now
from kartina.storage.uploads import Upload, Uploads
from kartina.storage.usage import NONE, Used, hold, used
from tests.pictures import pack, tree


@pytest.fixture(autouse=True)
def _limits() -> Any:
    """What a job bounds is bounded for its process: here that is the test's."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.fixture
def jobs(home: Path) -> Jobs:
    return Jobs.open()


def uploaded(jobs: Jobs, content: bytes, name: str = "a.zip", owner: str = "key_1") -> str:
    """The id of a complete upload."""
    size, at = len(content), now()
    one = Upload(new_id("upl"), owner, name, size, size, None, "0" * 64, None, at, at)
    with jobs.database.write() as c:
        Uploads(jobs.database).add(c, one, NONE)
    one.path.parent.mkdir(parents=True)
    one.path.write_bytes(content)
    return one.id


def context(jobs: Jobs, kind: str, spec: dict[str, Any], owner: str = "key_1") -> Context:
    """A job that this process has claimed."""
    wanted = jobs.submit(kind, spec, caller=owner)
    job = jobs.claim("a test", 600)
    assert job is not None and job.id == wanted.id
    return Context(jobs, job, job.lease)


def pets(tmp_path: Path, n: int = 12) -> bytes:
    return pack(tree(tmp_path / "in", {"cat": n, "dog": n}, channels=1), tmp_path / "a.zip").read_bytes()


def count(jobs: Jobs, owner: str = "key_1") -> Used:
    with jobs.database.read() as c:
        return used(c, owner)


def test_an_import_makes_a_set_of_its_caller(jobs: Jobs, tmp_path: Path) -> None:
    content = pets(tmp_path)
    spec = {"upload": uploaded(jobs, content), "name": "pets"}
    assert count(jobs).bytes == len(content)
    job = context(jobs, "import", spec)
    done = import_data(job, spec)
    folder = imageset.folder("pets")
    assert done == {"dataset": "pets", "hash": imageset.record("pets")["hash"], "images": 24, "skipped": 0}
    assert owners.read(folder) == "key_1" and (folder / "report.json").is_file()
    assert count(jobs).bytes == sum(path.stat().st_size for path in folder.iterdir())
    with pytest.raises(NotFoundError):
        Uploads(jobs.database).get("key_1", spec["upload"])


def test_killed_after_it_was_done_it_is_done(jobs: Jobs, tmp_path: Path) -> None:
    spec = {"upload": uploaded(jobs, pets(tmp_path)), "name": "pets"}
    job = context(jobs, "import", spec)
    done = import_data(job, spec)
    made = imageset.folder("pets").stat().st_ino
    assert import_data(job, spec) == done and imageset.folder("pets").stat().st_ino == made
    other = context(jobs, "import", spec | {"upload": uploaded(jobs, pets(tmp_path / "b"))})
    with pytest.raises(DataError, match="called 'pets' already"):
        import_data(other, spec | {"upload": uploaded(jobs, pets(tmp_path / "c"))})
    assert imageset.folder("pets").stat().st_ino == made
    # Another's is not replaced, whatever was asked for.
    (imageset.folder("pets") / "owner").write_text("key_2")
    with pytest.raises(DataError, match="called 'pets' already"):
        import_data(other, spec | {"upload": uploaded(jobs, pets(tmp_path / "d")), "replace": True})
    assert imageset.folder("pets").stat().st_ino == made


def test_a_canceled_import_leaves_nothing_and_counts_for_nothing(jobs: Jobs, tmp_path: Path) -> None:
    content = pets(tmp_path)
    spec = {"upload": uploaded(jobs, content), "name": "pets"}
    job = context(jobs, "import", spec)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:  # while it packs
            raise Interrupted

    job.check = check  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        import_data(job, spec)
    assert list((imageset.folder("pets").parent).iterdir()) == []
    assert count(jobs).bytes == len(content), "the upload alone"
    assert import_data(context(jobs, "import", spec), spec)["images"] == 24


def taken(name: str) -> int:
    """Bytes of a data set's files."""
    return sum(path.stat().st_size for path in imageset.folder(name).iterdir())


def test_what_was_not_replaced_counts_as_before(jobs: Jobs, tmp_path: Path) -> None:
    spec = {"upload": uploaded(jobs, pets(tmp_path)), "name": "pets"}
    import_data(context(jobs, "import", spec), spec)
    assert count(jobs).bytes == taken("pets")
    content = pets(tmp_path / "b", 40)
    spec = {"upload": uploaded(jobs, content), "name": "pets", "replace": True}
    job = context(jobs, "import", spec)
    held = []

    def check() -> None:
        held.append(count(jobs).bytes)
        if len(held) == 2:  # while it packs
            raise Interrupted

    job.check = check  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        import_data(job, spec)
    assert held[1] > held[0] and count(jobs).bytes == taken("pets") + len(content)
    # Another's, too, for its owner.
    (imageset.folder("pets") / "owner").write_text("key_2")
    with pytest.raises(DataError, match="called 'pets' already"):
        import_data(context(jobs, "import", spec), spec)
    assert count(jobs).bytes == len(content) and count(jobs, "key_2").bytes == taken("pets")


def test_a_look_tells_what_the_import_takes(jobs: Jobs, tmp_path: Path) -> None:
    spec = {"upload": uploaded(jobs, pets(tmp_path))}
    found = inspect(context(jobs, "inspect", spec), spec)["import"]
    wall, disk = found["wall_seconds"], found["disk"]
    assert 0 < wall["low"] < wall["value"] < wall["high"] and wall["value"] == pytest.approx(wall["low"] / 0.4)
    assert disk["needed"] == 24 * 16 * 16 * 3 and disk["free"] > 0 and disk["enough"]
    assert "24 images were looked at here" in found["basis"] and "at 16 x 16 pixels" in found["basis"]
    asked = {**spec, "name": "pets"}
    import_data(context(jobs, "import", asked), asked)
    assert 3 * len(imageset.open_set("pets").images.tobytes()) == disk["needed"], "they are grey: a third of it"


def zipped(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return out.getvalue()


def link() -> zipfile.ZipInfo:
    found = zipfile.ZipInfo("cat/0.png")
    found.external_attr = (stat.S_IFLNK | 0o777) << 16
    return found


def test_an_upload_stays_while_any_job_is_to_read_it(jobs: Jobs, tmp_path: Path) -> None:
    """Also when a later job has read it already."""
    uploads, upload = Uploads(jobs.database), uploaded(jobs, pets(tmp_path))
    first = jobs.submit("import", {"upload": upload, "name": "pets"}, caller="key_1")
    second = jobs.submit("inspect", {"upload": upload}, caller="key_1")
    with jobs.database.write() as c:
        for job in (first, second):
            uploads.use(c, upload, job.id)
    jobs.cancel(second.id)
    with jobs.database.read() as c:
        assert uploads.busy(c, upload) == first.id and uploads.expired(c, -1) == []
    jobs.cancel(first.id)
    with jobs.database.read() as c:
        assert uploads.busy(c, upload) is None and uploads.expired(c, -1) == [upload]


def test_an_import_leaves_the_upload_to_another_that_is_to_read_it(jobs: Jobs, tmp_path: Path) -> None:
    upload = uploaded(jobs, pets(tmp_path))
    spec = {"upload": upload, "name": "pets"}
    job, larger = context(jobs, "import", spec), {**spec, "name": "large", "size": 64}
    later = jobs.submit("import", larger, caller="key_1")
    import_data(job, spec)
    assert Uploads(jobs.database).get("key_1", upload).path.is_file()
    claimed = jobs.claim("a test", 600)
    assert claimed is not None and claimed.id == later.id
    assert import_data(Context(jobs, claimed, claimed.lease), larger)["images"] == 24


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {  # made by the test, not by every process that collects it
    "traversal": (lambda: zipped(("../../cat/0.png", b"x")), "names inside the archive"),
    "absolute": (lambda: zipped(("/etc/cat/0.png", b"x")), "names inside the archive"),
    "link": (lambda: zipped((link(), b"/etc/passwd")), "Found the link"),
    "bomb": (lambda: zipped(("cat/0.png", bytes(10**7)), method=zipfile.ZIP_DEFLATED), "ZIP bomb"),
    "entries": (lambda: zipped(*((f"cat/{i}.png", b"") for i in range(200_001))), "at most 200,000"),
    "no zip": (lambda: b"PK\3\4 not a zip", "no ZIP or is cut off"),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "entries" else ()) for k in HOSTILE])
def test_what_is_not_safe_is_refused(jobs: Jobs, kind: str) -> None:
    content, says = HOSTILE[kind]
    spec = {"upload": uploaded(jobs, content())}
    with pytest.raises(DataError, match=says):
        inspect(context(jobs, "inspect", spec), spec)


def test_an_expression_takes_no_longer_than_its_names(jobs: Jobs, tmp_path: Path) -> None:
    """With backtracking this one takes 2^200 steps."""
    root = tree(tmp_path / "in", {"a" * 200: 1, "b": 1})
    spec = {"upload": uploaded(jobs, pack(root, tmp_path / "a.zip").read_bytes()), "group_by": "((a+)+)+$"}
    with pytest.raises(DataError, match=r"Found 2 of 2 paths that --group-by '\(\(a\+\)\+\)\+\$' does not match"):
        inspect(context(jobs, "inspect", spec), spec)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """An image that takes more than is allowed is one that cannot be used; its process goes on."""
    wide = io.BytesIO()
    Image.fromarray(np.zeros((7000, 9000, 3), np.uint8)).save(wide, "PNG")
    code = (
        "import sys; from kartina.handlers import datasets; from kartina.data.decode import open_image\n"
        "datasets.MEMORY = 64 << 20; datasets._bound_memory()\n"
        "try:\n    open_image(sys.stdin.buffer.read())\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=wide.getvalue(), capture_output=True, check=True)
    assert b"does not fit in memory" in done.stdout


def test_reports_are_cut_short(jobs: Jobs, tmp_path: Path) -> None:
    files = [(f"cat/{'n' * 400}{i}.png", b"broken") for i in range(90)]
    content = zipped(*files, *((f"x/{i}.odd{i}", b"") for i in range(90)), ("dog/0.png", b"broken"))
    spec = {"upload": uploaded(jobs, content)}
    report = inspect(context(jobs, "inspect", spec), spec)
    assert report["problem_counts"]["corrupt"] == 91
    assert sum(problem["kind"] == "corrupt" for problem in report["problems"]) == 50
    assert max(len(path) for problem in report["problems"] for path in problem["paths"]) == 200
    assert len(report["ignored"]) == 50


def test_the_mark_is_not_the_images(jobs: Jobs, tmp_path: Path) -> None:
    """Two jobs make the same data: the hash says so, whoever made it."""
    found = []
    for name in ("one", "two"):
        spec = {"upload": uploaded(jobs, pets(tmp_path / name)), "name": name}
        found.append(import_data(context(jobs, "import", spec), spec)["hash"])
    assert found[0] == found[1]
    marks = [(imageset.folder(name) / MARK).read_text() for name in ("one", "two")]
    assert marks[0] != marks[1]


def test_what_is_not_there_no_longer_counts(jobs: Jobs, tmp_path: Path) -> None:
    """A set that was removed by hand, and one whose import gave up: its last process could not say so, neither of a
    set that it should have replaced."""
    service = Datasets(Uploads(jobs.database), jobs)
    spec = {"upload": uploaded(jobs, pets(tmp_path)), "name": "pets"}
    job = context(jobs, "import", spec)
    assert jobs.succeed(jobs.get(job.id).lease, import_data(job, spec))
    with jobs.database.write() as c:
        hold(c, jobs.database, "key_1", "dataset:never", bytes=1000)
    jobs.submit("import", {"name": "never"}, caller="key_1")
    service.recount()
    assert count(jobs).bytes > 1000, "one is there, the other may yet come"
    with jobs.database.write() as c:
        hold(c, jobs.database, "key_1", "dataset:pets", bytes=10**6)  # by a job that was killed when it replaced it
    service.recount()
    assert count(jobs).bytes == taken("pets") + 1000
    shutil.rmtree(imageset.folder("pets"))
    jobs.cancel(2)
    service.recount()
    assert count(jobs) == Used()
