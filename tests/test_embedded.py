"""The embedded stores and the data folder they live in, started for real."""

import os
import stat
import tempfile
from pathlib import Path

import psycopg
import pytest
import redis

from portal.run.data_folder import DataFolder, StartError, plain_errors
from portal.run.embedded import Services
from portal.run.postgres import SOCKET_PATH_BYTES, Postgres


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def test_the_stores_keep_their_data_between_starts(folder):
    with Services(folder, durable=False) as services:
        with psycopg.connect(services.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'Ä' AS letter")
        redis.Redis.from_url(services.redis_url).set("kept", "1")

    with Services(folder, durable=False) as services:
        with psycopg.connect(services.database_url) as connection:
            lowered = connection.execute("SELECT lower(letter) FROM kept").fetchone()
        value = redis.Redis.from_url(services.redis_url).get("kept")

    assert lowered == ("ä",)
    assert value == b"1"


def test_valkey_answers_a_write_when_it_is_on_disk_and_evicts_nothing(folder):
    with Services(folder) as services:
        settings = redis.Redis.from_url(services.redis_url).config_get("*")

    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["maxmemory-policy"] == "noeviction"


def test_the_stores_are_closed_to_who_has_no_password(folder):
    with Services(folder, durable=False) as services:
        address, _ = services.database_url.split("?")
        without_password = services.database_url.replace(address, "postgres://keystile@/keystile")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(without_password)
        port = redis.Redis.from_url(services.redis_url).get_connection_kwargs()["port"]
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port, retry=None).ping()


def test_a_deep_data_folder_gets_its_socket_elsewhere(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * SOCKET_PATH_BYTES)

    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        with (
            Services(deep, durable=False) as services,
            psycopg.connect(services.database_url) as to,
        ):
            assert to.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_file_whose_number_belongs_to_another_process_is_no_obstacle(folder):
    with Services(folder, durable=False):
        left_behind = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
    left_behind[0] = str(os.getpid())
    (folder / "postgres" / "postmaster.pid").write_text("\n".join(left_behind) + "\n")

    with Services(folder, durable=False) as services, psycopg.connect(services.database_url) as to:
        assert to.execute("SELECT 1").fetchone() == (1,)


def test_an_initialisation_that_was_cut_short_is_begun_again(folder):
    folder.mkdir()
    (folder / "keystile.lock").touch()
    (folder / "postgres.new").mkdir()
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")

    with Services(folder, durable=False) as services, psycopg.connect(services.database_url) as to:
        assert to.execute("SELECT 1").fetchone() == (1,)


def test_a_foreign_postgres_folder_is_refused(folder):
    claimed = DataFolder(folder)
    (folder / "postgres").mkdir()
    (folder / "postgres" / "thesis.txt").touch()

    with pytest.raises(StartError, match="is not a Postgres data folder"):
        Postgres(folder, "secret").prepare()

    claimed.release()


def test_another_major_version_of_postgres_is_refused(folder):
    with Services(folder, durable=False):
        pass
    (folder / "postgres" / "PG_VERSION").write_text("12\n")

    with pytest.raises(StartError, match="was written by Postgres 12"):
        Services(folder, durable=False).start()


def test_secrets_are_drawn_once_and_readable_by_the_owner_alone(folder):
    first = DataFolder(folder)
    drawn = first.secrets({})
    first.release()

    second = DataFolder(folder)
    again = second.secrets({"SECRET_KEY": "the operator's"})
    second.release()

    assert again == drawn | {"SECRET_KEY": "the operator's"}
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600


def test_a_database_without_its_secrets_is_refused(folder):
    with Services(folder, durable=False):
        pass
    (folder / "secrets.json").unlink()

    with pytest.raises(StartError, match=r"secrets\.json is missing"):
        Services(folder, durable=False).start()


@pytest.mark.parametrize("name", ["secrets.json", "ports.json"])
def test_a_damaged_file_is_named(folder, name):
    folder.mkdir()
    (folder / "keystile.lock").touch()
    (folder / name).write_text("{")

    with pytest.raises(StartError, match=f"{name} is damaged"):
        Services(folder, durable=False).start()


def test_a_folder_with_foreign_files_is_refused_and_left_alone(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")

    with pytest.raises(StartError, match=r"files that are not Keystile's \(thesis\.txt\)"):
        DataFolder(folder)

    assert [entry.name for entry in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (Path(__file__), "is not a folder"),
        (Path("/proc/keystile"), "can't be used"),
    ],
)
def test_a_place_that_can_not_be_a_data_folder_is_refused(path, sentence):
    with pytest.raises(StartError, match=sentence):
        DataFolder(path)


def test_a_full_disk_is_one_sentence(folder):
    with pytest.raises(StartError, match="is full"), plain_errors(folder):
        Path("/dev/full").write_text("x")


def test_a_folder_has_one_owner_at_a_time(folder):
    owner = DataFolder(folder)

    with pytest.raises(StartError, match=rf"in use by another Keystile \(process {os.getpid()}\)"):
        DataFolder(folder)

    owner.release()
    DataFolder(folder).release()
