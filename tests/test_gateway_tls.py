"""A backend over https is who it says it is, or nothing is sent to it."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests import traffic, upstream
from tests.authority import Authority
from tests.traffic import ask, make_customer, put_on_sale

pytestmark = pytest.mark.django_db

SECRET = b"what only the backend may read"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture
def call(authority, redis_clean):
    """Calls a backend through a gateway that trusts the authority, started within the test: what
    it logs is the test's to read."""

    def call(url: str):
        put_on_sale(url, connect_timeout_seconds=1)
        customer = make_customer()
        with traffic.gateway(UPSTREAM_CA_FILE=str(authority.file)) as running:
            return ask(running.port, "POST", "/gateway/demo/echo", customer.bearer, SECRET)

    return call


def expired(authority: Authority) -> ssl.SSLContext:
    return authority.server("localhost", datetime.now(UTC) - timedelta(days=9))


def not_yet_valid(authority: Authority) -> ssl.SSLContext:
    return authority.server("localhost", datetime.now(UTC) + timedelta(days=9))


def of_another_host(authority: Authority) -> ssl.SSLContext:
    return authority.server("backend.example")


def of_an_unknown_authority(authority: Authority) -> ssl.SSLContext:
    return Authority(authority.file.parent, "theirs").server("localhost")


def of_an_old_version(authority: Authority) -> ssl.SSLContext:
    context = authority.server("localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_a_backend_is_verified_by_its_name_and_asked_for_it(call, authority):
    names: list[str | None] = []
    context = authority.server("localhost")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with upstream.serving(context) as backend:
        answer = call(f"https://localhost:{backend.port}")

    assert (answer.status, answer.json["body"]) == (200, SECRET.decode())
    assert set(names) == {"localhost"}


def test_a_backend_may_be_an_address(call, authority):
    with upstream.serving(authority.server("127.0.0.1")) as backend:
        answer = call(f"https://127.0.0.1:{backend.port}")

    assert answer.status == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (of_another_host, "Hostname mismatch"),
        (of_an_unknown_authority, "unable to get local issuer certificate"),
        (expired, "certificate has expired"),
        (not_yet_valid, "certificate is not yet valid"),
        (of_an_old_version, "Connection"),
    ],
)
def test_nothing_is_sent_to_a_backend_that_is_not_verified(call, authority, capfd, server, reason):
    with upstream.serving(server(authority)) as backend:
        answer = call(f"https://localhost:{backend.port}")

    assert (answer.status, answer.code) == (502, "upstream_unreachable")
    assert backend.requests == []
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "upstream." in line]
    assert "upstream.unreachable" in line
    assert reason in line
    (entry,) = traffic.entries()
    assert (entry["status"], entry["billable"]) == (502, False)


def test_a_file_without_certificates_is_one_clear_line_at_start(tmp_path):
    for name in ("missing.pem", "empty.pem"):
        file = tmp_path / name
        (tmp_path / "empty.pem").touch()
        started = subprocess.run(
            [sys.executable, "-c", "import portal.settings"],
            env=os.environ | {"UPSTREAM_CA_FILE": str(file)},
            capture_output=True,
            text=True,
        )
        assert started.returncode == 1
        assert f"UPSTREAM_CA_FILE ({file}) is not a file of PEM certificates" in started.stderr


def test_an_unencrypted_backend_is_not_talked_to_when_tls_is_asked_for(call, capfd):
    with upstream.serving() as backend:
        answer = call(f"https://localhost:{backend.port}")

    assert answer.code == "upstream_timeout"
    assert backend.requests == []
    assert "upstream.overdue" in capfd.readouterr().err
