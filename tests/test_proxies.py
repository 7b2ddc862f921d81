"""The client's address comes from the connection, or from proxies that are trusted: never else."""

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.db.models import F
from django.http import HttpResponse
from django.test import RequestFactory

from gateway.intake import client_behind
from keys import publish
from keys.models import ApiKey
from portal.proxies import client_address
from tests import traffic, upstream

PEER = b"10.0.0.9"


@pytest.mark.parametrize(
    ("proxies", "forwarded_for", "client"),
    [
        (1, b"203.0.113.7", b"203.0.113.7"),
        (1, b"6.6.6.6, 203.0.113.7", b"203.0.113.7"),  # the first was sent by the client
        (2, b"6.6.6.6, 203.0.113.7, 10.0.0.1", b"203.0.113.7"),
        (1, b"2001:DB8::1", b"2001:db8::1"),
        (1, b"", PEER),
        (2, b"203.0.113.7", PEER),  # not through all of them
        (1, b"203.0.113.7, ", b"203.0.113.7"),
        (1, b"unknown", PEER),
        (1, b'1.2.3.4", "billable":false', PEER),
    ],
)
def test_the_client_is_who_the_outermost_trusted_proxy_saw(proxies, forwarded_for, client):
    assert client_behind(proxies, PEER, forwarded_for) == client


def test_pages_know_the_client_behind_the_proxy(settings):
    settings.TRUSTED_PROXIES = 1
    answer = client_address(lambda request: HttpResponse(request.META["REMOTE_ADDR"]))
    request = RequestFactory(headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}).get("/")

    assert answer(request).content == b"203.0.113.7"


def test_without_proxies_the_field_means_nothing(settings):
    settings.TRUSTED_PROXIES = 0

    with pytest.raises(MiddlewareNotUsed):
        client_address(lambda request: HttpResponse(request.path))


@pytest.mark.django_db
def test_a_network_restriction_is_judged_by_what_the_trusted_proxy_says(redis_clean):
    with upstream.serving() as backend, traffic.gateway(TRUSTED_PROXIES="1") as running:
        traffic.put_on_sale(backend.url)
        customer = traffic.make_customer()
        ApiKey.objects.update(allowed_networks=["203.0.113.0/24"], revision=F("revision") + 1)
        publish.key(customer.key.pk, traffic.NOW)

        def ask(forwarded_for: str) -> traffic.Answer:
            fields = customer.bearer | {"X-Forwarded-For": forwarded_for}
            return traffic.ask(running.port, "GET", "/gateway/demo/echo", fields)

        from_inside, spoofed = ask("203.0.113.7"), ask("203.0.113.7, 198.51.100.1")

    assert from_inside.status == 200
    assert dict(from_inside.json["fields"])["x-forwarded-for"] == "203.0.113.7"
    assert (spoofed.status, spoofed.code) == (403, "ip_not_allowed")
