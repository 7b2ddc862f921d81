from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from keys import entitlements, issuance, records, tokens
from keys.entitlements import Terms
from keys.models import ApiKey, ClaimLink, KeyEvent
from tests.factories import make_account, make_user
from tests.test_entitlements import apply

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BY = {"actor": None, "address": "192.0.2.7", "now": NOW}


@pytest.fixture
def account():
    account = make_account()
    apply(account)
    return account


def create(account, name="server", mode="live"):
    return issuance.create(account, name=name, mode=mode, **BY)


def at_once(*calls):
    """Runs the calls at the same time on connections of their own: results or exceptions."""

    def run(call):
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the test looks at whatever it was
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def kinds(key):
    return sorted(key.events.values_list("kind", flat=True))


def field(key, name):
    value = records.connection().hget(records.key_name(key.partition, key.digest), name)
    return None if value is None else value.decode()


def everything_stored():
    """All text in Postgres' key tables and in Redis."""
    redis = records.connection()
    texts = []
    for model in (ApiKey, ClaimLink, KeyEvent):
        texts += [str(row) for row in model.objects.values()]
    for name in redis.scan_iter():
        texts += [name.decode(), str(redis.hgetall(name))]
    return "\n".join(texts)


def test_the_first_key_is_issued_once_and_without_a_secret(account):
    first = issuance.issue_first(account, NOW)
    again = issuance.issue_first(account, NOW + HOUR)

    assert again.pk == first.pk
    assert (first.state, first.mode, first.digest) == ("unclaimed", "live", None)
    assert kinds(first) == ["issued"]


def test_the_first_key_issued_from_many_places_at_once_is_one_key(account):
    results = at_once(*[lambda: issuance.issue_first(account, NOW)] * 6)

    assert len({key.pk for key in results}) == 1
    assert account.keys.count() == 1
    assert kinds(results[0]) == ["issued"]


def test_claiming_shows_a_working_secret_once(account):
    key = issuance.issue_first(account, NOW)
    user = make_user()

    secret = issuance.claim(key.pk, account, actor=user, address="192.0.2.7", now=NOW)

    key.refresh_from_db()
    assert tokens.parse(secret).mode == "live"
    assert (key.state, key.digest) == ("active", tokens.digest(secret))
    assert key.hint == f"ks_live_…{secret[-4:]}"
    assert field(key, "state") == "active"
    assert kinds(key) == ["claimed", "issued"]
    assert key.events.get(kind="claimed").actor == user
    with pytest.raises(issuance.AlreadyClaimed):
        issuance.claim(key.pk, account, **BY)


def test_of_many_claims_at_once_exactly_one_sees_a_secret(account):
    key = issuance.issue_first(account, NOW)
    link = issuance.claim_link(key, NOW)

    results = at_once(
        *[lambda: issuance.claim(key.pk, account, **BY)] * 4,
        *[lambda: issuance.claim_by_link(link, address=None, now=NOW)] * 4,
    )

    shown = [result for result in results if not isinstance(result, Exception)]
    assert len(shown) == 1
    secret = shown[0] if isinstance(shown[0], str) else shown[0][1]
    key.refresh_from_db()
    assert key.digest == tokens.digest(secret)
    expected = (issuance.AlreadyClaimed, issuance.ClaimExpired)
    assert all(isinstance(r, expected) for r in results if r is not shown[0])


def test_no_secret_is_stored_anywhere(account):
    first = issuance.issue_first(account, NOW)
    link = issuance.claim_link(first, NOW)
    _, claimed = issuance.claim_by_link(link, address=None, now=NOW)
    key, created = create(account)
    _, rotated = issuance.rotate(key.pk, account, overlap=HOUR, **BY)

    stored = everything_stored()

    for secret in (link, claimed, created, rotated):
        assert secret not in stored
        assert secret[8:40] not in stored


def test_a_link_claims_once_and_looking_at_it_claims_nothing(account):
    key = issuance.issue_first(account, NOW)
    link = issuance.claim_link(key, NOW)

    assert issuance.key_of_link(link, NOW) == key
    assert issuance.key_of_link(link, NOW) == key
    claimed, secret = issuance.claim_by_link(link, address="192.0.2.9", now=NOW)

    assert claimed.digest == tokens.digest(secret)
    assert key.events.get(kind="claimed").address == "192.0.2.9"
    assert issuance.key_of_link(link, NOW) is None
    with pytest.raises(issuance.ClaimExpired):
        issuance.claim_by_link(link, address=None, now=NOW)


def test_a_link_ends_after_a_day_but_its_key_can_still_be_claimed(account):
    key = issuance.issue_first(account, NOW)
    link = issuance.claim_link(key, NOW)
    next_day = NOW + timedelta(hours=24)

    assert issuance.key_of_link(link, next_day) is None
    with pytest.raises(issuance.ClaimExpired):
        issuance.claim_by_link(link, address=None, now=next_day)
    assert issuance.claim(key.pk, account, **BY)


def test_a_link_to_a_key_claimed_elsewhere_shows_nothing(account):
    key = issuance.issue_first(account, NOW)
    link = issuance.claim_link(key, NOW)
    issuance.claim(key.pk, account, **BY)

    assert issuance.key_of_link(link, NOW) is None
    with pytest.raises(issuance.AlreadyClaimed):
        issuance.claim_by_link(link, address=None, now=NOW)


def test_an_invented_link_is_nothing():
    assert issuance.key_of_link("invented", NOW) is None
    with pytest.raises(ClaimLink.DoesNotExist):
        issuance.claim_by_link("invented", address=None, now=NOW)


def test_an_outsider_finds_no_key_of_another_account(account):
    first = issuance.issue_first(account, NOW)
    key, _ = create(account)
    outsider = make_account()
    apply(outsider)

    for act in (
        lambda: issuance.claim(first.pk, outsider, **BY),
        lambda: issuance.rotate(key.pk, outsider, overlap=HOUR, **BY),
        lambda: issuance.revoke(key.pk, outsider, **BY),
    ):
        with pytest.raises(ApiKey.DoesNotExist):
            act()


def test_a_created_key_works_at_once(account):
    key, secret = create(account, mode="test")

    assert tokens.parse(secret).mode == "test"
    assert (field(key, "state"), field(key, "mode")) == ("active", "test")
    assert kinds(key) == ["created"]


def test_no_key_is_created_beyond_the_limit_however_many_ask_at_once(account):
    apply(account, terms=Terms(20, 40, {}, 200, key_limit=3))

    results = at_once(*[lambda: create(account)] * 8)

    assert account.keys.count() == 3
    refused = [r for r in results if isinstance(r, issuance.KeyLimitReached)]
    assert len(refused) == 5


def test_dead_keys_and_the_portals_own_do_not_count(account):
    apply(account, terms=Terms(20, 40, {}, 200, key_limit=2))
    issuance.console_key(account, NOW)
    revoked, _ = create(account)
    issuance.revoke(revoked.pk, account, **BY)
    rotated, _ = create(account)
    issuance.rotate(rotated.pk, account, overlap=HOUR, **BY)

    with pytest.raises(issuance.KeyLimitReached):
        create(account)
    assert issuance.create(
        account, name="later", mode="live", actor=None, address=None, now=NOW + HOUR
    )


@pytest.mark.parametrize(
    "change",
    [{"state": "ended"}, {"state": "payment_required"}, {"ends_at": NOW}],
)
def test_an_account_without_a_subscription_gets_no_new_key(account, change):
    apply(account, **change)

    with pytest.raises(issuance.NotEntitled):
        create(account)


def test_a_suspended_or_unknown_account_gets_no_new_key(account):
    entitlements.suspend(account.pk, NOW)

    with pytest.raises(issuance.NotEntitled):
        create(account)
    with pytest.raises(issuance.NotEntitled):
        create(make_account())


def test_rotation_leaves_the_old_key_working_for_the_overlap(account):
    old, old_secret = create(account)

    new, secret = issuance.rotate(old.pk, account, overlap=HOUR, **BY)

    old.refresh_from_db()
    assert secret != old_secret
    assert (new.name, new.origin, new.replaces) == ("server", "rotated", old)
    assert (old.name, old.state, old.expires_at) == ("server (old)", "active", NOW + HOUR)
    assert field(old, "state") == field(new, "state") == "active"
    assert field(old, "expires_ms") == str(int((NOW + HOUR).timestamp() * 1000))
    assert kinds(old) == ["created", "rotated"]
    assert old.successors.get() == new


def test_rotation_without_overlap_ends_the_old_key_now(account):
    old, _ = create(account)

    issuance.rotate(old.pk, account, overlap=timedelta(0), **BY)

    old.refresh_from_db()
    assert (old.state, old.revoked_at, old.is_published) == ("revoked", NOW, True)
    assert field(old, "state") == "revoked"


def test_a_longer_overlap_does_not_revive_a_key_that_is_ending(account):
    old, _ = create(account)
    issuance.rotate(old.pk, account, overlap=HOUR, **BY)
    issuance.rotate(old.pk, account, overlap=timedelta(days=7), **BY)

    old.refresh_from_db()
    assert old.expires_at == NOW + HOUR


def test_only_an_active_key_is_rotated(account):
    unclaimed = issuance.issue_first(account, NOW)
    revoked, _ = create(account)
    issuance.revoke(revoked.pk, account, **BY)
    expired, _ = create(account)
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=NOW)

    for key in (unclaimed, revoked, expired):
        with pytest.raises(issuance.KeyNotActive):
            issuance.rotate(key.pk, account, overlap=HOUR, **BY)


def test_a_revocation_is_confirmed_by_the_data_plane(account):
    key, _ = create(account)

    revoked = issuance.revoke(key.pk, account, **BY)

    assert revoked.confirmed
    assert field(key, "state") == "revoked"
    assert revoked.key.revoked_at == NOW
    assert kinds(key) == ["created", "revoked"]


def test_revoking_again_confirms_and_changes_nothing(account):
    key, _ = create(account)
    issuance.revoke(key.pk, account, **BY)

    again = issuance.revoke(key.pk, account, actor=None, address=None, now=NOW + HOUR)

    assert again.confirmed
    assert again.key.revoked_at == NOW
    assert kinds(key) == ["created", "revoked"]


def test_a_revocation_inside_a_transaction_is_not_yet_confirmed(account):
    key, _ = create(account)

    with transaction.atomic():
        revoked = issuance.revoke(key.pk, account, **BY)

        assert field(key, "state") == "active"

    assert not revoked.confirmed
    assert field(key, "state") == "revoked"


def test_an_unclaimed_key_can_be_revoked_and_then_not_claimed(account):
    key = issuance.issue_first(account, NOW)

    assert issuance.revoke(key.pk, account, **BY).confirmed
    with pytest.raises(issuance.AlreadyClaimed):
        issuance.claim(key.pk, account, **BY)


def test_the_portals_own_key_is_one_and_out_of_reach(account):
    key = issuance.console_key(account, NOW)

    assert issuance.console_key(account, NOW).pk == key.pk
    assert (field(key, "mode"), field(key, "state")) == ("test", "active")
    assert not key.events.exists()
    with pytest.raises(ApiKey.DoesNotExist):
        issuance.revoke(key.pk, account, **BY)


def test_the_database_refuses_an_active_key_without_a_digest(account):
    key = issuance.issue_first(account, NOW)

    with pytest.raises(IntegrityError):
        ApiKey.objects.filter(pk=key.pk).update(state="active")
