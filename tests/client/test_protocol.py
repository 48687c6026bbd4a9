"""The client without a socket: credentials, tries, answers, inputs, and what importing it loads."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from kartina.client import (
    AnswerError,
    BusyError,
    Client,
    ConflictError,
    InputError,
    InternalError,
    NotFoundError,
    QuotaError,
    ServiceError,
    SignInError,
    UnreachableError,
)
from kartina.client.inputs import attachment, upload_of
from kartina.client.protocol import Place, Tries, call, read
from kartina.client.schemas import Health, Problem, Session
from kartina.errors import ConfigError, DataError, KartinaError

HELD = {"status": "ok"}


def test_importing_loads_little() -> None:
    code = (
        "import sys, kartina.client as c; c.Client('http://127.0.0.1:1', 'k')\n"
        "print([m for m in ('torch', 'fastapi', 'starlette', 'numpy', 'sqlalchemy', 'PIL') if m in sys.modules])\n"
        "print([m for m in sys.modules if m.startswith('kartina') and not m.startswith('kartina.client')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['kartina', 'kartina.errors']"]


# -- where and who --------------------------------------------------------------------------------------------------


def test_credentials_from_arguments_the_url_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_URL", "https://images.example.org/kartina/")
    monkeypatch.setenv("KARTINA_KEY", "kt_environment")
    assert Place.of(None, None) == Place("https://images.example.org/kartina", "kt_environment")
    assert Place.of("http://127.0.0.1:8765/?token=abc", None) == Place("http://127.0.0.1:8765", "abc")
    assert Place.of("http://127.0.0.1:8765/?token=abc", "kt_x").key == "kt_x"
    monkeypatch.delenv("KARTINA_KEY")
    with pytest.raises(ConfigError, match=r"no key that can be sent.*kartina keys create"):
        Place.of("http://localhost:1", None)
    with pytest.raises(ConfigError, match="no key"):
        Place.of("http://localhost:1", "kt_x\r\nX-Evil: 1")
    for wrong in ("localhost:8765", "ftp://x", "http://", "http://user:word@x"):
        with pytest.raises(ConfigError, match=r"expected one like http://127.0.0.1:8765"):
            Place.of(wrong, "kt_x")
    assert "kt_secret" not in repr(Place("http://x", "kt_secret")) + repr(Client("http://x", "kt_secret"))


def test_a_proxy_of_the_environment_is_not_for_this_machine() -> None:
    assert Place("http://127.0.0.1:8765", "k").settings(1)["trust_env"] is False
    assert Place("http://localhost", "k").settings(1)["trust_env"] is False
    assert Place("https://images.example.org", "k").settings(1)["trust_env"] is True


def test_names_in_paths_are_quoted() -> None:
    assert call("GET", "/v1/models/{ref}", ref="fashion@2").url == "/v1/models/fashion@2"
    assert call("GET", "/v1/models/{ref}/classes/{index}.png", ref="a/b?", index=3).url == (
        "/v1/models/a%2Fb%3F/classes/3.png"
    )
    for wrong in ("", ".", ".."):
        with pytest.raises(ConfigError, match="as id; expected the name or id"):
            call("DELETE", "/v1/assets/{id}", id=wrong)


# -- tries ----------------------------------------------------------------------------------------------------------


def client_of(*answers: httpx2.Response | Exception, patience: float = 5.0) -> tuple[Client, list[httpx2.Request]]:
    """A client of a service that gives these answers in turn, the last one for ever; and what it was asked."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        request.read()
        asked.append(request)
        found = answers[min(len(asked), len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    return Client("http://kartina", "k", patience=patience, transport=httpx2.MockTransport(answer)), asked


def problem(status: int, code: str = "x", wait: int | None = None, **more: Any) -> httpx2.Response:
    body = {"type": f"urn:kartina:problem:{code}", "title": "T", "status": status, "detail": "D", "code": code, **more}
    headers = {} if wait is None else {"Retry-After": str(wait)}
    return httpx2.Response(status, json=body, headers={**headers, "content-type": "application/problem+json"})


OK = httpx2.Response(200, json=HELD)
BROKEN = httpx2.ReadError("gone")
REFUSED = httpx2.ConnectError("refused")


@pytest.mark.parametrize("first", [BROKEN, REFUSED, httpx2.ReadTimeout("slow"), problem(503), problem(429, wait=1)])
def test_tried_again(first: httpx2.Response | Exception) -> None:
    client, asked = client_of(first, OK)
    started = time.monotonic()
    assert client.health().status == "ok" and len(asked) == 2
    least = 1.0 if isinstance(first, httpx2.Response) and first.status_code == 429 else 0.1
    assert least <= time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(400, "bad_request"), InputError), (problem(401), SignInError), (problem(404), NotFoundError),
        (problem(409, "conflict"), ConflictError), (problem(422, "config"), InputError), (problem(500), InternalError),
        (problem(507, "storage"), InternalError), (httpx2.Response(502, text="<html>"), InternalError),
        (problem(429, "quota", wait=3600), QuotaError), (problem(429, "queue_full", wait=6), BusyError),
        (problem(409, "in_flight"), ConflictError),
    ],
)  # fmt: skip
def test_not_tried_again(answer: httpx2.Response, kind: type[ServiceError]) -> None:
    client, asked = client_of(answer, OK)
    with pytest.raises(kind):
        client.health()
    assert len(asked) == 1


def test_patience_ends() -> None:
    client, asked = client_of(REFUSED, patience=0.6)
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no answer to GET /healthz \(refused\); is the service running"):
        client.health()
    assert len(asked) >= 2 and time.monotonic() - started < 10
    client, asked = client_of(REFUSED, patience=0)
    with pytest.raises(UnreachableError):
        client.health()
    assert len(asked) == 1


def test_what_may_have_happened_is_not_done_twice() -> None:
    """A key would be made twice; a generation has an idempotency key; what was never sent can be sent."""
    client, asked = client_of(BROKEN, OK)
    with pytest.raises(UnreachableError, match="may have been carried out"):
        client.keys.create("robot")
    assert len(asked) == 1
    client, asked = client_of(REFUSED, problem(422, "config"))
    with pytest.raises(InputError):
        client.keys.create("robot")
    assert len(asked) == 2
    client, asked = client_of(BROKEN, problem(409, "in_flight", wait=0), problem(404))
    with pytest.raises(NotFoundError):
        client.generate("m")
    keys = [request.headers["idempotency-key"] for request in asked]
    assert len(keys) == 3 and len(set(keys)) == 1 and len(keys[0]) == 32
    client, asked = client_of(BROKEN, problem(404))
    client.assets.delete("a")  # the lost answer was its deletion's
    assert len(asked) == 2
    client, asked = client_of(problem(404))
    with pytest.raises(NotFoundError):
        client.assets.delete("a")


def test_a_file_is_sent_again_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "package.zip"
    file.write_bytes(b"x" * 100_000)
    client, asked = client_of(BROKEN, problem(422, "data"))
    with pytest.raises(InputError):
        client.models.import_package(file)
    assert [request.content.count(b"x" * 100_000) for request in asked] == [1, 1]
    with pytest.raises(FileNotFoundError):
        client.models.import_package(tmp_path / "none.zip")


def test_pauses_double_and_are_blurred() -> None:
    tries = Tries(call("GET", "/healthz"), 1e9)
    pauses = [tries.after_break(httpx2.ReadError("")) for _ in range(9)]
    for i, pause in enumerate(pauses):
        most = min(8.0, 0.25 * 2**i)
        assert most / 2 <= pause <= most
    assert len(set(pauses)) == 9
    assert 7 <= Tries(call("GET", "/"), 60).after_answer(problem(503, wait=7), problem(503, wait=7).content) <= 7.7


def test_a_service_that_stops_for_ever_is_given_up() -> None:
    """Its goodbye is no news: patience ends. The last event's id goes along each time."""
    text = 'id: 7\nevent: reconnect\ndata: {"type": "reconnect"}\n\n'
    stream = httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})
    client, asked = client_of(stream, patience=0.6)
    with pytest.raises(UnreachableError, match="the stream ended too early"):
        list(client._http.events(call("GET", "/v1/generations/{id}/events", id="g")))
    assert [request.headers.get("last-event-id") for request in asked[:2]] == [None, "7"]


# -- answers --------------------------------------------------------------------------------------------------------


def test_an_error_says_what_the_service_said() -> None:
    client, _ = client_of(problem(422, "config", errors=["n: too many"], request_id="req_1", newer=True))
    with pytest.raises(InputError, match=r"^D$") as caught:
        client.health()
    error = caught.value
    assert (error.code, error.status, error.errors, error.request_id) == ("config", 422, ["n: too many"], "req_1")
    assert isinstance(error, KartinaError) and error.details == ("n: too many",)
    client, _ = client_of(httpx2.Response(502, text="<h1>Bad gateway</h1>"))
    with pytest.raises(InternalError, match=r"502 Bad Gateway, which is not Kartina's: <h1>Bad gateway"):
        client.health()


def test_a_newer_service_is_understood_and_another_is_not() -> None:
    found = read(Session, '{"mode":"sso","version":"9","name":"x","scopes":["generate","train"],"new":{"a":1}}')
    assert found.mode == "sso" and found.scopes == ["generate", "train"] and not hasattr(found, "new")
    with pytest.raises(AnswerError, match="an answer that is no Health"):
        read(Health, "<html>")
    assert read(Problem, '{"status":500}').code == "http"


# -- inputs ---------------------------------------------------------------------------------------------------------


def test_images_in_any_form(tmp_path: Path) -> None:
    image = Image.new("L", (3, 2), 7)
    out = io.BytesIO()
    image.save(out, "PNG")
    (tmp_path / "a.png").write_bytes(out.getvalue())
    for given in (out.getvalue(), tmp_path / "a.png", str(tmp_path / "a.png"), image):
        content = upload_of(given).content
        assert isinstance(content, bytes)
        assert Image.open(io.BytesIO(content)).size == (3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image.save(out := io.BytesIO(), "JPEG", exif=exif)
    for turned in (Image.open(out), Image.open(out).convert("CMYK")):
        content = upload_of(turned).content
        assert isinstance(content, bytes) and Image.open(io.BytesIO(content)).size == (2, 3)
    with pytest.raises(DataError, match="mode F, whose range nobody knows"):
        upload_of(Image.new("F", (2, 2)))
    with pytest.raises(DataError, match="Found int as an image"):
        upload_of(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        upload_of("no such file")


def test_a_proposed_name_is_a_plain_name() -> None:
    def proposed(text: str) -> str:
        return attachment({"content-disposition": text}, "x.png")

    assert proposed('attachment; filename="000-Bag-seed7.png"') == "000-Bag-seed7.png"
    assert proposed('attachment; filename="../../.bashrc"') == "bashrc"
    assert proposed('attachment; filename=".."') == "x.png" and proposed("inline") == "x.png"
