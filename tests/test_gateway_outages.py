"""What docs/outages.md promises, row by row, on an installation that is really broken each time."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator

import pytest

from tests import short_lease, traffic, upstream
from tests.installation import (
    OPENS,
    REDIS_TIMEOUT_SECONDS,
    STREAM,
    Installation,
    Load,
    bearer,
    load,
    wait_for,
)

SLACK_SECONDS = 1.0  # for a machine that has other things to do
RECONNECT_SECONDS = 1.0  # the longest pause between two tries of the gateway's link


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def whole(tmp_path_factory, backend) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("installation"), backend.url)
    try:
        installation.start()
        yield installation
    finally:
        installation.stop()


@pytest.fixture
def installation(whole) -> Iterator[Installation]:
    """Everything runs and is settled; afterwards no gateway has lost its composure."""
    whole.mend()
    whole.sweep()
    whole.close_books()
    whole.start_a_page()
    yield whole
    for part in (*whole.gateways, whole.worker, whole.beat):
        # A task that ends while its broker is away can't say so; Celery's own words, it runs again.
        said = re.sub(
            r"^\[critical \] Couldn't ack .*?(?=^\[|\Z)",
            "",
            part.said(),
            flags=re.MULTILINE | re.DOTALL,
        )
        assert "Traceback" not in said, said
        assert "never retrieved" not in said, said


def reconcile(installation: Installation, calling: Load) -> None:
    """Nothing free, nothing twice: what clients saw, the ledger and the quota agree."""
    seen = calling.seen
    installation.close_books()
    ledger = installation.ledger()
    billed = {event_id for event_id, (is_billed, _) in ledger.items() if is_billed}
    new = billed - installation.before.keys()

    assert seen.strange == []
    assert len(set(seen.events)) == len(seen.events)
    assert set(seen.events) <= new
    assert len(seen.events) <= len(new) <= len(seen.events) + seen.broken
    assert installation.billed_units() == len(billed)
    assert installation.counted_units() == len(billed)


def only_503s_in_time(calling: Load) -> None:
    assert set(calling.seen.statuses) <= {200, 503}
    assert calling.seen.broken == 0
    assert calling.seen.slowest_seconds < REDIS_TIMEOUT_SECONDS + SLACK_SECONDS


# ------------------------------------------------------------------ Redis


def test_a_stopped_redis_is_503_at_once_and_exact_after_it_is_back(installation):
    with load(installation) as calling:
        installation.valkey.stop()
        calling.wait_for(503)
        installation.valkey.start()
        back_after = calling.wait_for(200)

    only_503s_in_time(calling)
    assert back_after < RECONNECT_SECONDS + SLACK_SECONDS
    reconcile(installation, calling)
    for gateway in installation.gateways:
        assert "redis.lost" in gateway.said()
        assert "redis.back" in gateway.said()


def test_the_worker_finds_a_redis_that_was_away_for_long_within_seconds(installation):
    installation.call()
    installation.valkey.stop()
    time.sleep(7)  # with pauses of 2, 4, 6 … seconds the next try would be at 12
    installation.valkey.start()
    wait_for(lambda: installation.call().status == 200, 2 + SLACK_SECONDS, "calls are admitted")

    drained_after = wait_for(lambda: not installation.redis.xlen(STREAM), 10, "calls are drained")

    assert drained_after < 2 + SLACK_SECONDS


def test_a_killed_redis_has_every_call_that_it_confirmed(installation):
    with load(installation) as calling:
        installation.valkey.kill()
        calling.wait_for(503)
        installation.valkey.start()
        calling.wait_for(200)

    only_503s_in_time(calling)
    reconcile(installation, calling)


def test_a_paused_redis_is_503_within_the_timeout_and_exact_after_it_goes_on(installation):
    with load(installation) as calling:
        installation.valkey.pause()
        calling.wait_for(503)
        time.sleep(REDIS_TIMEOUT_SECONDS * 2)
        installation.valkey.resume()
        calling.wait_for(200)

    only_503s_in_time(calling)
    reconcile(installation, calling)


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_a_call_without_an_end_outlasts_an_outage_that_is_longer_than_its_lease(installation, how):
    lease, valkey = short_lease.ENDURING, installation.valkey
    lasts_s = lease.lasts_ms / 1000
    target = f"/gateway/endless/events?pause=0.1&n={int(4.5 * lasts_s / 0.1)}"
    with (
        traffic.gateway(
            application="tests.short_lease:enduring", **installation.environ
        ) as running,
        traffic.connect(running.port) as client,
        installation.sweeping(lease) as swept,
    ):
        wait_for(lambda: swept, 2 * lasts_s, "sweeps have begun")
        client.sendall(
            traffic.request_bytes("GET", target, bearer(installation.customer["secret"]))
        )
        wait_for(lambda: installation.is_renewed(lease), 5, "the call is renewed")
        valkey.stop() if how == "stopped" else valkey.pause()
        time.sleep(1.5 * lasts_s)
        valkey.start() if how == "stopped" else valkey.resume()
        before = len(swept)
        wait_for(lambda: len(swept) > before, 3 * lasts_s, "sweeps go on")
        answer = traffic.read_answer(client)

    assert answer.complete
    assert sum(swept) == 0
    installation.close_books()
    new = installation.ledger().items() - installation.before.items()
    assert new == {(answer["keystile-event"], (True, "completed"))}


def test_a_gateway_that_starts_without_redis_serves_as_soon_as_it_is_there(installation):
    installation.valkey.stop()
    with (
        traffic.gateway(**installation.environ) as early,
        Load(early.port, installation.customer["secret"]) as calling,
    ):
        calling.wait_for(503)
        installation.valkey.start()
        calling.wait_for(200)

    only_503s_in_time(calling)
    reconcile(installation, calling)


def test_connections_dropped_again_and_again_charge_no_call_twice(installation):
    redis = installation.redis
    with load(installation) as calling:
        for _ in range(60):
            for client in redis.client_list():
                if client["name"] == "keystile-gateway":
                    redis.client_kill(client["addr"])
            time.sleep(0.05)
        calling.wait_for(200)

    only_503s_in_time(calling)
    assert calling.seen.statuses[503] > 0
    reconcile(installation, calling)


def test_flushed_scripts_are_loaded_again_unnoticed(installation):
    with load(installation) as calling:
        for _ in range(20):
            installation.redis.script_flush()
            time.sleep(0.05)

    assert set(calling.seen.statuses) == {200}
    reconcile(installation, calling)


def test_a_redis_out_of_memory_admits_nothing_and_settles_what_it_admitted(installation):
    redis = installation.redis
    with load(installation) as calling:
        redis.config_set("maxmemory", 1)
        calling.wait_for(503)
        wait_for(lambda: not redis.hlen(OPENS), 5, "what was admitted is settled")
        redis.config_set("maxmemory", 0)
        calling.wait_for(200)

    only_503s_in_time(calling)
    reconcile(installation, calling)


def test_a_redis_that_came_back_empty_is_503_until_it_is_filled_and_forgets_no_usage(installation):
    with load(installation) as calling:
        pass
    reconcile(installation, calling)
    installation.start_a_page()
    used = installation.counted_units()
    installation.valkey.stop()
    shutil.rmtree(installation.valkey.data)

    installation.valkey.start()
    token = bearer("kst_" + "a" * 46)
    refusals = [
        installation.call(),
        installation.call("/gateway/demo/.limits"),
        traffic.ask(installation.port, "POST", "/gateway/.verify", token, b"{}"),
    ]
    with load(installation) as calling:
        pass

    assert used > 0
    # Never 401: an empty Redis knows neither the bad nor the good.
    for refused in refusals:
        assert (refused.status, refused.code) == (503, "limits_unavailable")
        assert refused["retry-after"] == "1"
    only_503s_in_time(calling)
    reconcile(installation, calling)


def test_a_redis_emptied_under_load_gives_away_only_what_was_not_drained(installation):
    with load(installation) as calling:
        already = len(calling.seen.events)
        installation.redis.flushall()
        filled_after = calling.wait_for(200)

    only_503s_in_time(calling)
    assert calling.seen.statuses[503] > 0
    assert filled_after < 5 + SLACK_SECONDS
    installation.close_books()
    billed = {event_id for event_id, (is_billed, _) in installation.ledger().items() if is_billed}
    lost = set(calling.seen.events) - billed
    assert not lost & set(calling.seen.events[already + calling.connections :])
    assert installation.billed_units() == installation.counted_units() == len(billed)


# ------------------------------------------------------------------ Postgres


def test_with_postgres_stopped_calls_go_on_until_the_stream_is_full(installation):
    most = 300
    environ = installation.environ | {"GATEWAY_MAX_STREAM_ENTRIES": str(most)}
    with traffic.gateway(**environ) as strict:
        installation.postgres.stop()
        with Load(strict.port, installation.customer["secret"]) as calling:
            calling.wait_for(503)
            waiting = installation.redis.xlen(STREAM)
            installation.postgres.start()
            back_after = calling.wait_for(200)

    only_503s_in_time(calling)
    assert most <= waiting < most + calling.connections
    assert back_after < 5
    reconcile(installation, calling)


def test_a_postgres_that_crashes_under_load_is_not_noticed_by_callers(installation):
    with load(installation) as calling:
        for _ in range(2):
            installation.postgres.crash()
            calling.wait_for(200)
            installation.postgres.start()
            calling.wait_for(200)

    assert set(calling.seen.statuses) == {200}
    reconcile(installation, calling)


# ------------------------------------------------------------------ our own processes


def test_a_killed_worker_and_a_stopped_beat_delay_the_ledger_and_nothing_else(installation):
    with load(installation) as calling:
        installation.worker.kill()
        calling.wait_for(200)
        installation.worker.start()
        installation.beat.stop()
        calling.wait_for(200)
        installation.beat.start()

    assert set(calling.seen.statuses) == {200}
    reconcile(installation, calling)


def test_calls_of_a_killed_gateway_are_recorded_once_and_none_is_billed_unanswered(installation):
    one, other = installation.gateways
    with load(installation, "/gateway/demo/pause?seconds=0.02") as calling:
        # All connections go to the one that is left, and then to the one that came back.
        for victim in (one, other):
            victim.kill()
            calling.wait_for(200)
            victim.start()
            wait_for(lambda said=victim.said: "routes.loaded" in said(), 20, "it is back")

    seen = calling.seen
    assert seen.strange == []
    assert set(seen.statuses) == {200}
    time.sleep(1)  # the living settle what is theirs
    installation.sweep()
    installation.close_books()
    ledger = installation.ledger()
    new = {event_id: row for event_id, row in ledger.items() if event_id not in installation.before}
    abandoned = {event_id for event_id, row in new.items() if row[1] == "abandoned"}
    billed = {event_id for event_id, row in new.items() if row[0]}
    # A completed answer whose gateway died before it could say so is there, and unbilled.
    assert set(seen.events) <= set(new)
    assert not abandoned & billed
    assert 0 < len(abandoned) <= 2 * calling.connections
    assert len(billed - set(seen.events)) <= seen.broken
    assert installation.billed_units() == installation.counted_units()


def test_a_backend_that_is_down_is_502_and_costs_nothing(installation, backend):
    used = installation.counted_units()

    refused = installation.call(target="/gateway/down/echo")

    assert (refused.status, refused.code) == (502, "upstream_unreachable")
    installation.close_books()
    assert installation.counted_units() == used
