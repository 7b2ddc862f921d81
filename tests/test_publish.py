from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.test import override_settings

from keys import entitlements, issuance, publish, records, tasks
from keys.models import ApiKey, Entitlement
from tests.factories import make_account
from tests.test_entitlements import apply

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)


@pytest.fixture
def key():
    account = make_account()
    apply(account)
    return create(account)


@contextmanager
def redis_away():
    """For the moment every connection is refused, as by a Redis that is not running."""
    with override_settings(REDIS_URL="redis://127.0.0.1:1/0"):
        records.connection.cache_clear()
        yield
    records.connection.cache_clear()


def create(account):
    key, _ = issuance.create(account, name="server", mode="live", actor=None, address=None, now=NOW)
    return key


def name_of(key):
    return records.key_name(key.partition, key.digest)


def state_of(key):
    return records.connection().hget(name_of(key), "state")


def test_a_key_is_published_when_its_creation_returns(key):
    record = records.connection().hgetall(name_of(key))

    assert record == {
        b"rev": b"1",
        b"id": str(key.pk).encode(),
        b"account": str(key.account_id).encode(),
        b"mode": b"live",
        b"state": b"active",
        b"expires_ms": b"",
        b"own": b"",
        b"restrictions": b"",
        b"rate": b"",
        b"burst": b"",
        b"quota": b"",
    }
    key.refresh_from_db()
    assert key.is_published


def test_a_record_never_goes_back_to_an_older_revision():
    name = "key:{p00}:test"
    records.publish_record(records.Record(name, 10, {"state": "revoked"}))

    records.publish_record(records.Record(name, 9, {"state": "active", "rate": 5}))

    assert records.connection().hgetall(name) == {b"rev": b"10", b"state": b"revoked"}


def test_a_publication_of_an_older_row_leaves_the_newer_one_unstamped(key):
    ApiKey.objects.filter(pk=key.pk).update(revision=7)
    publish.key(key.pk, NOW)

    ApiKey.objects.filter(pk=key.pk).update(revision=8, published_revision=0)

    assert publish.lagging(NOW) == 1
    key.refresh_from_db()
    assert key.published_revision == 8
    assert publish.lagging(NOW) == 0


def test_a_revocation_that_cannot_be_confirmed_says_so_and_is_completed_later(key):
    account = key.account

    with redis_away():
        revoked = issuance.revoke(key.pk, account, actor=None, address=None, now=NOW)

    assert not revoked.confirmed
    assert state_of(key) == b"active"
    key.refresh_from_db()
    assert key.state == ApiKey.State.REVOKED
    assert not key.is_published

    tasks.republish()

    assert state_of(key) == b"revoked"
    key.refresh_from_db()
    assert key.is_published
    assert issuance.revoke(key.pk, account, actor=None, address=None, now=NOW).confirmed


def test_a_suspension_that_cannot_be_confirmed_says_so_and_is_completed_later(key):
    with redis_away():
        assert not entitlements.suspend(key.account_id, NOW)

    tasks.republish()

    name = records.account_name(0, key.account_id)
    assert records.connection().hget(name, "suspended") == b"1"


def test_terms_are_applied_while_redis_is_away(key):
    with redis_away():
        apply(key.account, plan_name="Pro")

    entitlement = Entitlement.objects.get(account=key.account)
    assert entitlement.plan_name == "Pro"
    assert entitlement.published_revision < entitlement.revision


def test_a_revoked_key_stays_known_for_a_long_time(key):
    issuance.revoke(key.pk, key.account, actor=None, address=None, now=NOW)

    seconds = records.connection().ttl(name_of(key))

    assert timedelta(days=394) < timedelta(seconds=seconds) <= publish.REMEMBERED


def test_a_rotated_key_is_forgotten_as_long_after_its_overlap(key):
    overlap = timedelta(days=7)
    issuance.rotate(key.pk, key.account, overlap=overlap, actor=None, address=None, now=NOW)

    left = timedelta(seconds=records.connection().ttl(name_of(key)))

    assert overlap + timedelta(days=394) < left <= overlap + publish.REMEMBERED
    assert state_of(key) == b"active"


def test_everything_is_published_again_except_what_died_long_ago(key):
    revoked, dead, rotated = create(key.account), create(key.account), create(key.account)
    for other in (revoked, dead):
        issuance.revoke(other.pk, key.account, actor=None, address=None, now=NOW)
    successor, _ = issuance.rotate(
        rotated.pk,
        key.account,
        overlap=timedelta(hours=1),
        actor=None,
        address=None,
        now=NOW,
    )
    ApiKey.objects.filter(pk=dead.pk).update(revoked_at=NOW - timedelta(days=400))
    issuance.issue_first(key.account, NOW)
    records.connection().flushdb()

    count = publish.everything(0, NOW)

    assert count == 5  # four keys and their account
    assert [state_of(known) for known in (key, successor, rotated)] == [b"active"] * 3
    assert state_of(revoked) == b"revoked"
    assert state_of(dead) is None
    expires_ms = records.connection().hget(name_of(rotated), "expires_ms")
    assert int(expires_ms) == int((NOW + timedelta(hours=1)).timestamp() * 1000)
