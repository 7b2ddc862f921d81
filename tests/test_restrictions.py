"""A key's settings: what is taken, in which form, what is refused and in which words."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import issuance, publish, records, restrictions
from keys.models import ApiKey, Entitlement
from tests.factories import make_account, make_user
from tests.test_entitlements import TERMS, apply
from tests.test_publish import redis_away

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ON_SALE = ["holidays GET /v1/countries", "holidays GET /v1/next/{country}"]
BY = {"actor": None, "address": "192.0.2.7", "now": NOW}


def checked(held=None, **settings):
    entitlement = Entitlement(terms=TERMS.to_json())
    return restrictions.checked(
        settings, on_sale=ON_SALE, entitlement=entitlement, now=NOW, held=held
    )


def faults(held=None, **settings):
    with pytest.raises(restrictions.Invalid) as caught:
        checked(held, **settings)
    return caught.value.errors


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        (" 10.1.2.3/8 ", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("2001:db8:0:0::/48", "2001:db8::/48"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_a_network_is_kept_in_its_normal_form(written, normal):
    assert checked(allowed_networks=[written]) == {"allowed_networks": [normal]}


@pytest.mark.parametrize(
    "written", ["10.0.0.300", "example.com", "10.0.0.0/33", "010.0.0.1", "fe80::1%eth0", "1", "/8"]
)
def test_a_line_that_is_no_network_is_named(written):
    (sentence,) = faults(allowed_networks=["10.0.0.0/8", "", written])["allowed_networks"]

    assert sentence.startswith(f"Line 3, “{written}”, is not an address")


def test_what_is_given_twice_is_kept_once():
    networks = ["10.0.0.1/8", "10.0.0.2/8", "", "10.0.0.0/8"]

    assert checked(allowed_networks=networks)["allowed_networks"] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Example.com", "example.com"),
        ("*.example.com", "*.example.com"),
        ("https://example.com:8443/", "https://example.com:8443"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("https://*.bücher.example", "https://*.xn--bcher-kva.example"),
        ("localhost:3000", "localhost:3000"),
    ],
)
def test_a_site_is_kept_as_browsers_send_it(written, normal):
    assert checked(allowed_referrers=[written])["allowed_referrers"] == [normal]


@pytest.mark.parametrize(
    "written",
    [
        "example.com/path",
        "*",
        "*example.com",
        "a.*.com",
        "ftp://a.b",
        "a b",
        "a.com:99999",
        "..",
        "é\0",
    ],
)
def test_a_line_that_is_no_site_is_named(written):
    (sentence,) = faults(allowed_referrers=[written])["allowed_referrers"]

    assert sentence.startswith("Line 1, ")


def test_only_operations_on_sale_are_taken_and_held_ones_may_stay():
    key = ApiKey(allowed_operations=["old GET /v0"])

    assert faults(allowed_operations=["old GET /v0"])["allowed_operations"]
    assert checked(key, allowed_operations=["old GET /v0", *ON_SALE])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rate_per_second": Decimal(21)}, "rate_per_second"),
        ({"rate_per_second": Decimal(0)}, "rate_per_second"),
        ({"rate_per_second": Decimal(1), "burst": 41}, "burst"),
        ({"rate_per_second": Decimal(1), "burst": 0}, "burst"),
        ({"burst": 5}, "burst"),
        ({"monthly_quota": 10_001}, "monthly_quota"),
        ({"monthly_quota": 0}, "monthly_quota"),
        ({"expires_at": NOW}, "expires_at"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"allowed_networks": ["10.0.0.0/8"] * 101}, "allowed_networks"),
    ],
)
def test_a_key_gets_no_more_than_its_account_and_nothing_odd(given, field):
    assert list(faults(**given)) == [field]


def test_the_account_s_own_limits_are_named():
    assert "10,000" in faults(monthly_quota=10_001)["monthly_quota"][0]


def test_an_end_that_has_passed_may_stay_as_it_is():
    key = ApiKey(expires_at=NOW - HOUR)

    assert checked(key, expires_at=NOW - HOUR)


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5))
def test_whatever_is_written_is_taken_in_normal_form_or_refused(networks, sites):
    try:
        taken = checked(allowed_networks=networks, allowed_referrers=sites)
    except restrictions.Invalid:
        return

    assert checked(**taken) == taken


# ------------------------------------------------------------------ changing a key


@pytest.fixture
def account(redis_clean, transactional_db):
    account = make_account()
    apply(account)
    return account


def create(account, **settings):
    key, _ = issuance.create(account, name="server", mode="live", settings=settings, **BY)
    return key


def test_a_key_is_created_with_its_restrictions(account):
    key = create(account, allowed_networks=["10.0.0.0/8"], expires_at=NOW + HOUR)

    assert key.allowed_networks == ["10.0.0.0/8"]
    record = records.connection().hgetall(records.key_name(0, key.digest))
    assert int(record[b"expires_ms"]) == (NOW + HOUR).timestamp() * 1000


def test_a_change_is_published_and_told_in_words(account):
    key, user = create(account), make_user()

    changed = issuance.change(
        key.pk,
        account,
        {"name": "shop", "allowed_networks": ["10.0.0.0/8"], "rate_per_second": Decimal("2.500")},
        actor=user,
        address="203.0.113.7",
        now=NOW,
    )

    key.refresh_from_db()
    event = key.events.get(kind="changed")
    assert changed.confirmed
    assert (key.revision, key.published_revision) == (2, 2)
    assert (event.actor, event.address) == (user, "203.0.113.7")
    assert event.details == [
        "Name: server → shop",
        "Called from: anywhere → 10.0.0.0/8",
        "Rate: the account’s → 2.5 calls a second",
    ]


def test_a_change_that_changes_nothing_leaves_no_trace_and_confirms(account):
    key = create(account)

    assert issuance.change(key.pk, account, {"name": "server"}, **BY).confirmed

    key.refresh_from_db()
    assert key.revision == 1
    assert not key.events.filter(kind="changed").exists()


def test_a_change_that_cannot_be_published_says_so_and_arrives_later(account):
    key = create(account)

    with redis_away():
        assert not issuance.change(key.pk, account, {"expires_at": NOW + HOUR}, **BY).confirmed

    publish.lagging(NOW)
    assert records.connection().hget(records.key_name(0, key.digest), "expires_ms") != b""


def test_a_dead_key_and_another_account_s_are_not_changed(account):
    revoked, expired = create(account), create(account, expires_at=NOW + HOUR)
    issuance.revoke(revoked.pk, account, **BY)
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=NOW)
    outsider = make_account()

    for key in (revoked, expired):
        with pytest.raises(issuance.KeyNotActive):
            issuance.change(key.pk, account, {"name": "x"}, **BY)
    with pytest.raises(ApiKey.DoesNotExist):
        issuance.change(revoked.pk, outsider, {"name": "x"}, **BY)


def test_a_successor_has_the_restrictions_and_the_end_of_the_key_it_replaces(account):
    restricted = {
        "allowed_networks": ["10.0.0.0/8"],
        "allowed_referrers": ["example.com"],
        "allowed_operations": [ON_SALE[0]],
        "read_only": True,
        "rate_per_second": Decimal("0.5"),
        "burst": 2,
        "monthly_quota": 7,
        "expires_at": NOW + 9 * HOUR,
    }
    key = create(account, **restricted)

    new, _ = issuance.rotate(key.pk, account, overlap=HOUR, **BY)
    newer, _ = issuance.rotate(key.pk, account, overlap=HOUR, **BY)

    new.refresh_from_db()
    assert {name: getattr(new, name) for name in restricted} == restricted
    assert newer.expires_at is None  # the first rotation's overlap is no end of the customer's
