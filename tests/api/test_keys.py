"""API keys: created, shown once, used, limited, revoked; over HTTP and by the CLI; and what opens other addresses."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from kartina.services import keys as module
from kartina.services.access import LOCAL
from kartina.services.keys import Access, Rates, check_rate
from kartina.storage.database import Database
from kartina.storage.keys import Keys
from kartina.storage.usage import Quota
from tests.api.test_api import problem
from tests.cli.conftest import Cli, cli  # noqa: F401  a fixture
from tests.databases import database, postgres, url  # noqa: F401  fixtures
from tests.engine import toy_package, toys  # noqa: F401  fixture
from tests.service import SERVE, Service


def test_a_key_is_shown_once_and_kept_as_a_digest(service: Service) -> None:
    body = {"name": "robot", "scopes": ["generate"], "quota": {"images": 5}, "rate": "50/second", "days": 3}
    answer = service.client.post("/v1/keys", json=body)
    assert answer.status_code == 201
    secret, key = answer.json()["secret"], answer.json()["key"]
    assert re.fullmatch(r"kt_[0-9a-z]{12}_[\w-]{43}", secret) and secret.startswith(key["prefix"])
    assert (key["name"], key["scopes"], key["quota"]["images"], key["rate"]) == ("robot", ["generate"], 5, "50/second")
    listed = next(one for one in service.client.get("/v1/keys").json()["items"] if one["id"] == key["id"])
    assert listed == key
    tail = secret[-43:]  # it may hold "_" itself
    for file in service.home.rglob("kartina.db*"):
        assert tail.encode() not in file.read_bytes()
    stored = sqlite3.connect(service.home / "kartina.db").execute(
        "SELECT digest FROM api_keys WHERE id = ?", [key["id"]]
    )
    assert re.fullmatch(r"[0-9a-f]{64}", stored.fetchone()[0])
    assert (service.home / "keys.key").stat().st_mode & 0o077 == 0

    bearer = {"Authorization": f"Bearer {secret}"}
    with service.anonymous() as client:
        me = client.get("/v1/session", headers=bearer).json()
        assert me == {"mode": "key", "version": "0.1.0", "name": "robot", "scopes": ["generate"]}
        for wrong in (secret[:-1], secret[:-1] + ("A" if secret[-1] != "A" else "B"), secret.upper(), f"{secret}x"):
            assert client.get("/v1/session", headers={"Authorization": f"Bearer {wrong}"}).status_code == 401
        # As a cookie, for the page.
        assert client.post("/v1/session", json={"token": secret}).status_code == 204
        assert client.get("/v1/session").json() == me
        assert service.client.delete(f"/v1/keys/{key['id']}").status_code == 204
        assert client.get("/v1/session", headers=bearer).status_code == 401
        assert client.get("/v1/session").status_code == 401  # its cookies are worth nothing either
        assert client.post("/v1/session", json={"token": secret}).status_code == 401
    used = next(one for one in service.client.get("/v1/keys").json()["items"] if one["id"] == key["id"])
    assert used["revoked_at"] is not None and used["used_at"] is not None
    problem(service.client.delete("/v1/keys/key_nope"), 404, "not_found")


def test_nobody_gives_what_they_have_not_got(service: Service) -> None:
    with service.bearer("keys") as client:
        problem(client.post("/v1/keys", json={"name": "x", "scopes": ["models"]}), 403, "forbidden")
        assert client.post("/v1/keys", json={"name": "x", "scopes": ["keys"]}).status_code == 201
    with service.bearer("keys", quota={"images": 1}) as client:
        told = problem(client.post("/v1/keys", json={"name": "x", "scopes": ["keys"]}), 403, "forbidden")
        assert "a key with a quota" in told["detail"]
    with service.bearer("keys", days=2) as client:
        ends = []
        for days in (None, 1, 300):
            made = client.post("/v1/keys", json={"name": "x", "scopes": ["keys"], "days": days}).json()["key"]
            ends.append(datetime.fromisoformat(made["expires_at"]))
        assert ends[0] == ends[2] and ends[0] - ends[1] == pytest.approx(timedelta(days=1), abs=timedelta(minutes=1))
    for body in ({"name": ""}, {"name": "a\0b"}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["root"]},
                 {"name": "x", "rate": "often"}, {"name": "x", "days": 0}, {"name": "x", "quota": {"images": -1}},
                 {"name": "x", "quota": {"cats": 1}}):  # fmt: skip
        assert service.client.post("/v1/keys", json=body).status_code == 422, body


def test_rates_and_quotas(service: Service) -> None:
    with service.bearer("generate", rate="4/minute") as client:
        codes = [client.get("/v1/models").status_code for _ in range(6)]
        assert codes == [200] * 4 + [429] * 2
        refused = client.get("/v1/models")
        problem(refused, 429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
    with service.bearer("generate", quota={"images": 2, "steps": 100, "bytes": 1000}) as client:
        body = {"model": "toy", "n": 2}
        headers = {"Prefer": "wait=30", "Idempotency-Key": "one"}
        job = client.post("/v1/generations", json=body, headers=headers).json()
        refused = client.post("/v1/generations", json=body)
        assert "2 of 2 stored images used" in problem(refused, 429, "quota")["detail"]
        assert "retry-after" in refused.headers
        replay = client.post("/v1/generations", json=body, headers=headers)
        assert replay.status_code == 200 and replay.json()["id"] == job["id"]
        other = client.post("/v1/generations", json={**body, "n": 1}, headers=headers)
        problem(other, 422, "key_reused")
        client.delete(job["outputs"][0]["url"], params={"forever": True})
        assert client.post("/v1/generations", json={"model": "toy"}).status_code == 202
        large = os.urandom(3000)
        from PIL import Image

        Image.frombytes("L", (60, 50), large).save(service.home / "noise.png")
        answer = client.post("/v1/assets", files={"file": (service.home / "noise.png").read_bytes()})
        assert "stored bytes" in problem(answer, 429, "quota")["detail"]
        assert client.get("/v1/assets").json()["items"] == []


def test_guessing_is_slowed_down_and_harms_nobody_else(toys: None, tmp_path: Path) -> None:  # noqa: F811
    running = Service(tmp_path / "home", "--no-jobs")
    with running.anonymous() as client:
        codes = {client.post("/v1/session", json={"token": f"guess{i}"}).status_code for i in range(40)}
        assert codes == {401, 429}
        assert client.post("/v1/session", json={"token": running.token}).status_code == 204
    assert running.client.get("/v1/models").status_code == 200
    running.stop()


def test_the_cli_creates_lists_and_revokes(home: Path, cli: Cli) -> None:  # noqa: F811
    options = ("--scope", "generate", "--scope", "models", "--images", 7)
    made = cli("keys", "create", "robot", *options, "--json")
    assert made.code == 0, made.err
    assert made.json["scopes"] == ["generate", "models"]
    plain = cli("keys", "create", "second").out.splitlines()
    assert any(re.fullmatch(r"kt_[0-9a-z]{12}_[\w-]{43}", line) for line in plain)
    rows = cli("keys", "list", "--json").json
    assert [row["name"] for row in rows] == ["second", "robot"] and rows[1]["quota"]["images"] == 7
    assert "robot" in cli("keys", "list").out
    assert cli("keys", "revoke", made.json["id"], "--json").json == {"revoked": made.json["id"]}
    assert "revoked" in cli("keys", "list").out
    for words, says in ((("revoke", "key_nope"), "no API key"), (("create", "x", "--scope", "root"), "expected some"),
                        (("create", "x", "--rate", "often"), "such as 60/minute")):  # fmt: skip
        failed = cli("keys", *words)
        assert failed.code == 2 and says in failed.err


def test_other_addresses_ask_for_a_key_and_take_nothing_else(toys: None, tmp_path: Path) -> None:  # noqa: F811
    home = tmp_path / "home"
    toy_package(home / "models")
    command = [sys.executable, "-c", SERVE, "--no-open", "--device", "cpu", "--no-jobs", "--host", "0.0.0.0",
               "--allow-host", "kartina.example", "--port", "0"]  # fmt: skip
    environment = {**os.environ, "KARTINA_HOME": str(home)}
    refused = subprocess.run(
        ["timeout", "60", sys.executable, "-m", "kartina.cli", "serve", "--host", "0.0.0.0", "--port", "0"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode == 2 and "kartina keys create" in refused.stderr
    words = [sys.executable, "-m", "kartina.cli", "keys", "create", "robot", "--json"]
    made = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    key = json.loads(made.stdout)["key"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            found = re.search(r":(\d+)/", greeting)
            assert found and "token" not in greeting
            base = f"http://127.0.0.1:{found[1]}"
            bearer = {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=base, trust_env=False) as client:
                assert client.get("/v1/models").status_code == 401
                assert client.get("/v1/models", headers={"Authorization": "Bearer"}).status_code == 401
                assert client.post("/v1/session", json={"token": "x"}).status_code == 401
                assert client.get("/v1/models", headers=bearer).status_code == 200
                named = {**bearer, "Host": "kartina.example"}
                assert client.get("/v1/models", headers=named).status_code == 200
                assert client.get("/v1/models", headers={**bearer, "Host": "evil.example"}).status_code == 421
                for proto, secure in (("https", True), ("http", False)):
                    headers = {"Host": "kartina.example", "X-Forwarded-Proto": proto}
                    entered = client.post("/v1/session", json={"token": key}, headers=headers)
                    assert entered.status_code == 204 and ("Secure" in entered.headers["set-cookie"]) == secure
                client.cookies.clear()
                # A proxy in front is what this is for; another site's page is not.
                assert client.get("/v1/models", headers={**named, "X-Forwarded-For": "1.2.3.4"}).status_code == 200
                for origin, expected in (("https://kartina.example", 422), ("https://evil.example", 403)):
                    answer = client.post("/v1/generations", headers={**named, "Origin": origin})
                    assert answer.status_code == expected, origin
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_keys_on_both_databases(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    access = Access(Keys(database), b"pepper")
    key, text = access.create("a", ["generate", "models"], Quota(images=3), days=1)
    who = access.caller(text)
    assert who is not None and (who.owner, who.quota.images, who.scopes) == (key.id, 3, {"generate", "models"})
    assert access.by_id(key.id) == who and access.exists()
    assert Access(Keys(database), b"another pepper").caller(text) is None  # a stolen database opens nothing
    later = key.created_at.replace(year=key.created_at.year + 1)
    monkeypatch.setattr(module, "now", lambda: later)
    assert access.caller(text) is None and access.by_id(key.id) is None and not access.exists()


def test_rates_by_caller() -> None:
    rates = Rates()
    for _ in range(3):
        rates.check("3/minute", "a")
    error = rates.full("3/minute", "a")
    assert error is not None and 1 <= error.retry_after <= 60
    rates.check("3/minute", "b")
    rates.check("", "c")
    check_rate("5/second")
    assert LOCAL.rate == ""
