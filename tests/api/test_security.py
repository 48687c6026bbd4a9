"""Who is let in: every route, every header that matters."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from kartina.api import server
from kartina.api.page import Page
from kartina.api.security import LocalAccess, check_host, cookie_key, served_names
from kartina.errors import ConfigError, ConflictError
from kartina.services.access import SCOPES
from tests.service import Service


def test_the_token_is_exchanged_for_a_cookie(service: Service) -> None:
    with service.anonymous() as client:
        assert client.post("/v1/session", json={"token": "wrong"}).status_code == 401
        assert client.post("/v1/session", json={"token": service.token, "more": 1}).status_code == 422
        answer = client.post("/v1/session", json={"token": service.token})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and service.token not in cookie
        assert client.get("/v1/session").json() == {
            "mode": "local", "version": "0.1.0", "name": "local", "scopes": list(SCOPES),
        }  # fmt: skip
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", "", "a@127.0.0.1:{port}"]
)
def test_other_host_names_are_refused(service: Service, host: str) -> None:
    answer = service.client.get("/v1/models", headers={"Host": host.format(port=service.port)})
    assert answer.status_code == 421
    assert answer.json()["code"] == "misdirected"


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_loopback_names_are_served(service: Service, host: str) -> None:
    headers = {"Host": host.format(port=service.port)}
    assert service.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Host", "x-forwarded-proto", "Forwarded"])
def test_requests_through_a_proxy_are_refused(service: Service, header: str) -> None:
    for url in ("/", "/healthz", "/v1/models"):
        answer = service.client.get(url, headers={header: "1.2.3.4"})
        assert answer.status_code == 403
        assert "SSH tunnel" in answer.json()["detail"]


def test_other_origins_may_not_change_anything(service: Service) -> None:
    own = f"http://127.0.0.1:{service.port}"
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{service.port}",
        "http://127.0.0.1:1",
        own + ".evil",
    ):
        for method, url in (("POST", "/v1/generations"), ("DELETE", "/v1/generations/x"), ("POST", "/v1/session")):
            answer = service.client.request(method, url, headers={"Origin": origin})
            assert answer.status_code == 403, (origin, method, url)
    assert service.client.post("/v1/generations", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert service.client.post("/v1/generations", headers={"Origin": own}).status_code == 422


def test_every_answer_has_the_security_headers(service: Service) -> None:
    with service.anonymous() as client:
        answers = [client.get("/"), client.get("/healthz"), client.get("/v1/models"), client.get("/nothing.js"),
                   client.get("/", headers={"X-Forwarded-For": "1"}), service.client.get("/v1/models")]  # fmt: skip
    for answer in answers:
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-request-id"].startswith("req_")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe-eval" not in headers["content-security-policy"]
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
    assert "script-src 'self';" in answers[0].headers["content-security-policy"]
    assert "sandbox" in answers[2].headers["content-security-policy"]


def test_the_api_reference_may_load_run_and_ask_nothing_but_the_services_own(service: Service) -> None:
    with service.anonymous() as client:
        policies = [client.get(url).headers["content-security-policy"] for url in ("/docs", "/")]
    assert policies[0] == policies[1], "it needs nothing that the page does not"
    told = dict(part.strip().split(" ", 1) for part in policies[0].split(";"))
    assert told["default-src"] == told["script-src"] == told["connect-src"] == "'self'"
    assert told["object-src"] == told["base-uri"] == told["frame-ancestors"] == "'none'"
    assert "//" not in policies[0] and "unsafe-eval" not in policies[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "10.0.0.1"])
def test_addresses_that_others_reach_are_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="SSH tunnel"):
        server.listen(host, 0)


def test_ports() -> None:
    for host in ("127.0.0.1", "localhost", "127.0.0.9"):
        check_host(host)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port} taken"):
            server.listen("127.0.0.1", port)
    with server.listen("127.0.0.1", None) as first, server.listen("127.0.0.1", None) as second:
        ports = [sock.getsockname()[1] for sock in (first, second)]
        assert server.PORT <= ports[0] < ports[1] < server.PORT + server.TRIED
        assert server.url(first, "127.0.0.1", "t") == f"http://127.0.0.1:{ports[0]}/?token=t"
        assert server.url(first, "::1", "t") == f"http://[::1]:{ports[0]}/?token=t"


def test_a_cookie_is_for_one_port_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "home"))
    key = cookie_key()
    assert cookie_key() == key
    assert (tmp_path / "home" / "session.key").stat().st_mode & 0o077 == 0
    access = LocalAccess(port=1, key=key)
    value = access.sign_in(access.token)
    assert access.admits(Headers({"cookie": f"other=1; {access.cookie}={value}"}))
    assert LocalAccess(port=1, key=key).admits(Headers({"cookie": f"{access.cookie}={value}"}))  # after a restart
    assert not LocalAccess(port=2, key=key).admits(Headers({"cookie": f"kartina_session_2={value}"}))
    assert not LocalAccess(port=1).admits(Headers({"cookie": f"{access.cookie}={value}"}))
    later = time.time() + 31 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert not access.admits(Headers({"cookie": f"{access.cookie}={value}"}))


@pytest.mark.parametrize("other", ["a=hello world", "flag", "a/b=1", 'prefs={"a":1}', "a=b=c; x"])
def test_other_programs_cookies_lock_nobody_out(other: str) -> None:
    """Browsers send those of every port of this host, and some are not by the book."""
    access = LocalAccess(port=1)
    value = access.sign_in(access.token)
    for cookies in (f"{other}; {access.cookie}={value}", f"{access.cookie}={value}; {other}"):
        assert access.admits(Headers({"cookie": cookies}))


def test_a_name_is_served_whatever_its_case() -> None:
    assert LocalAccess(port=1, hosts=("gpu-box",)).serves("GPU-Box:1")
    assert served_names("0.0.0.0", ("GPU-Box", "[::2]")) == ("0.0.0.0", "gpu-box", "::2")
    assert served_names("127.0.0.1", ("GPU-Box",)) == ()


@pytest.mark.parametrize("path", ["/metrics%0A", "/openapi.json%0A", "/v1%0A", "/%00", "/a%7F"])
def test_a_path_with_control_characters_is_refused(service: Service, path: str) -> None:
    """Patterns of routes match a last newline, too."""
    with service.anonymous() as client:
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_the_page_serves_its_files_and_its_routes(tmp_path: Path) -> None:
    root = tmp_path / "static"
    (root / "assets").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    transport = httpx.ASGITransport(_app(Page(root)))

    async def get(path: str, method: str = "GET") -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path)

    def fetch(path: str, method: str = "GET") -> httpx.Response:
        import asyncio

        return asyncio.run(get(path, method))

    missing = fetch("/")
    assert missing.status_code == 503 and "make run" in missing.text
    (root / "index.html").write_text("<p>page")
    (root / "assets" / "a-1.js").write_text("1")
    assert fetch("/").text == fetch("/models/toy").text == "<p>page"
    assert "immutable" in fetch("/assets/a-1.js").headers["cache-control"]
    for path in (
        "/nothing.js",
        "/assets/b.js",
        "/link.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/v1/x",
        "/a%00b",
        "/" + "a" * 300,
        "/a" * 2000,
    ):
        assert fetch(path).status_code == 404, path
    assert fetch("/", "POST").status_code == 404


def _app(page: Page):  # type: ignore[no-untyped-def]
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.router.default = page
    return app
