"""Gives the tests real Postgres and Valkey, before Django's settings are read.

A pytest plugin (`-p tests.services`): where DATABASE_URL and REDIS_URL are set they are used, the
database as a superuser (see `flush`), else the embedded servers start in a folder of their own and
stop with the session.
"""

import atexit
import base64
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

_folder = Path(tempfile.mkdtemp(prefix="keystile-tests-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)


def _set_environment() -> None:
    random = secrets.token_urlsafe
    defaults = {
        "SECRET_KEY": random(48),
        "KEY_PEPPER": random(32),
        "FIELD_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "SANDBOX_WEBHOOK_SECRET": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "DEMO_UPSTREAM_SECRET": random(24),
        "STAFF_PASSWORD": random(16),
        "SITE_URL": "http://localhost:8000",
        "GATEWAY_URL": "http://localhost:8001",
        "DATA_DIR": str(_folder),
        "KEYSTILE_DEMO": "1",
        "PAYMENT_PROVIDER": "sandbox",
        "LOG_LEVEL": "WARNING",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if "DATABASE_URL" not in os.environ or "REDIS_URL" not in os.environ:
        from portal.run.embedded import Services

        services = Services(_folder / "services", durable=False)
        services.start()
        atexit.register(services.stop)
        _prove_passwords_quickly(services.database_url)
        os.environ.setdefault("DATABASE_URL", services.database_url)
        os.environ.setdefault("REDIS_URL", services.redis_url)


def _prove_passwords_quickly(database_url: str) -> None:
    """Half of a connection's time goes into the usual rounds, and each test makes a few."""
    with psycopg.connect(database_url) as connection:
        role, password = connection.info.user, connection.info.password
        connection.execute("SET scram_iterations = 1")
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), password)
        )


_set_environment()
