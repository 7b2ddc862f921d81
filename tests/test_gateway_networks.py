"""A backend lives on the internet, or where its API says, and never where clouds keep secrets."""

from __future__ import annotations

import socket

import pytest

from gateway import addresses
from gateway.addresses import EVERYWHERE, ForbiddenAddress, is_allowed, networks
from gateway.routes import ApiRoutes, Table
from keys import records
from tests import traffic, upstream
from tests.traffic import ask, make_customer, put_on_sale

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "fe80::1",
    "fe80::1%eth0",
    "100.100.100.200",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("allowed", [(), EVERYWHERE, networks(["fd00::/8", "100.64.0.0/10"])])
def test_link_local_addresses_and_metadata_are_always_refused(address, allowed):
    assert not is_allowed(address, allowed)


@pytest.mark.parametrize(
    "address",
    [
        "10.20.3.4",
        "::ffff:10.20.3.4",
        "64:ff9b::10.20.3.4",
        "2002:a14:304::",
        "fd12::5",
        "127.0.0.9",
    ],
)
def test_addresses_in_a_named_network_are_allowed_in_every_spelling(address):
    assert is_allowed(address, networks(["10.20.0.0/16", "fd12::/48", "127.0.0.9"]))
    assert is_allowed(address, EVERYWHERE)
    assert not is_allowed(address, ())


@pytest.mark.parametrize(
    "address",
    [
        "10.21.0.1",
        "127.0.0.1",
        "::1",
        "::",
        "0.0.0.0",
        "192.168.0.1",
        "fd13::1",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::10.20.3.4",
        "2002:7f00:1::",
        "::10.20.3.4",
        "2001:0:a14:304::1",
        "224.0.0.1",
        "ff02::1",
    ],
)
def test_every_other_private_address_is_refused(address):
    assert not is_allowed(address, networks(["10.20.0.0/16", "fd12::/48"]))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "64:ff9b::8.8.8.8"])
def test_the_internet_is_allowed_whatever_is_named(address):
    assert is_allowed(address, networks(["10.20.0.0/16"]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.0/33", "“10.0.0.0/33” is not a network"),
        ("backend.internal", "“backend.internal” is not a network"),
        ("", "“” is not a network"),
        ("10.0.0.5/8", "did you mean 10.0.0.0/8?"),
        ("169.254.169.254", "no backend may be on"),
        ("fe80::/64", "no backend may be on"),
        ("fd00:ec2::254", "no backend may be on"),
    ],
)
def test_a_network_that_is_none_is_named(text, words):
    with pytest.raises(ValueError, match=r".") as refused:
        networks(["10.1.0.0/16", text])

    assert words in str(refused.value)


def test_one_address_outside_refuses_a_name_with_several(monkeypatch):
    answers = [(socket.AF_INET, 0, 0, "", (host, 80)) for host in ("10.20.0.1", "10.21.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    with pytest.raises(ForbiddenAddress):
        addresses.resolve("backend", 80, private=networks(["10.20.0.0/16"]))

    found = addresses.resolve("backend", 80, private=networks(["10.20.0.0/15"]))
    assert found == ["10.20.0.1", "10.21.0.1"]


# ------------------------------------------------------------------ at the gateway


def compiled(**fields) -> ApiRoutes:
    put_on_sale("http://backend:8000", allow_private_upstream=False, **fields)
    record = records.connection().hgetall(records.routes_name(0))
    return Table(record[b"version"].decode(), record[b"blob"]).apis[fields["slug"]]


def test_connections_are_shared_under_the_same_permission_only(db, redis_clean):
    origins = {
        compiled(slug="none").live.origin,
        compiled(slug="some", private_networks=["10.0.0.0/8"]).live.origin,
        compiled(slug="more", private_networks=["10.0.0.0/8", "fd12::/48"]).live.origin,
    }

    assert len(origins) == 3
    again = compiled(slug="same", private_networks=["fd12::/48", "10.0.0.0/8"])
    assert again.live.origin in origins


@pytest.fixture(scope="module")
def backend():
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running():
    with traffic.gateway() as running:
        yield running


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("private_networks", "status"),
    [([], 502), (["10.0.0.0/8", "::1"], 502), (["127.0.0.0/8"], 200), (["127.0.0.1"], 200)],
)
def test_a_backend_is_called_where_its_api_says(
    running, redis_clean, backend, private_networks, status
):
    seen = len(backend.requests)
    put_on_sale(backend.url, allow_private_upstream=False, private_networks=private_networks)
    customer = make_customer()

    answer = ask(running.port, "GET", "/gateway/demo/echo", customer.bearer)

    assert answer.status == status
    assert len(backend.requests) - seen == (status == 200)
