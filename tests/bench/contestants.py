"""Who is measured, and how each of them is started. What they do is in the folder of each."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings

from gateway.problems import PROBLEMS, Refusal
from tests import traffic
from tests.bench import machine, seller
from tests.bench.processes import serving

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SCRIPTS = ROOT / "gateway" / "scripts"
SMALL_BYTES, LARGE_BYTES = 200, 20_000
BATCH_SECONDS = 0.1


class Missing(Exception):
    """This machine lacks something. The text says what, and how to get it."""


@dataclass(frozen=True)
class Place:
    """Where contestants find things. `folder` is this session's, `cache` outlives it."""

    folder: Path
    cache: Path
    upstream_port: int

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True)
class Running:
    """A started contestant: where it listens, and its first processes."""

    port: int
    pids: list[int]


@dataclass(frozen=True)
class Contestant:
    """One way to do the gateway's job. `start` raises `Missing`.

    entries: counts the usage entries that it has recorded; None if it does not do the job
    """

    slug: str
    name: str
    start: Callable[[Place], AbstractContextManager[Running]]
    entries: Callable[[], int] | None


# ------------------------------------------------------------------ Keystile and Django


@contextmanager
def keystile(place: Place, processes: int = 1) -> Iterator[Running]:
    """The gateway's own processes, as `make run` starts them."""
    with traffic.gateway(processes) as gateway:
        yield Running(gateway.port, [process.pid for process in gateway.processes])


@contextmanager
def obvious_drf(place: Place) -> Iterator[Running]:
    port = traffic.free_port()
    command = [sys.executable, "-m", "uvicorn", "django.core.wsgi:get_wsgi_application"]
    command += ["--factory", "--interface=wsgi", f"--port={port}", "--no-access-log"]
    command += ["--backlog=2048", "--log-level=error"]
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.bench.drf.settings",
        "BENCH_UPSTREAM": place.upstream_url,
    }
    log = place.folder / "drf.log"
    with serving(command, port=port, log=log, environment=environment) as pid:
        yield Running(port, [pid])


# ------------------------------------------------------------------ nginx


@contextmanager
def upstream(folder: Path) -> Iterator[int]:
    """The backend. Yields its port."""
    home = _home(folder, "upstream")
    (home / "small.json").write_text(json.dumps({"item": "x" * (SMALL_BYTES - 12)}))
    (home / "large.json").write_text(json.dumps({"item": "x" * (LARGE_BYTES - 12)}))
    with _nginx("upstream.conf", home, HERE=str(home)) as running:
        yield running.port


@contextmanager
def plain_proxy(place: Place) -> Iterator[Running]:
    home = _home(place.folder, "plain")
    with _nginx("plain.conf", home, UPSTREAM_PORT=str(place.upstream_port)) as running:
        yield running


@contextmanager
def nginx_lua(place: Place) -> Iterator[Running]:
    with _nginx_lua(place, "lua", hold_seconds=0) as running:
        yield running


@contextmanager
def nginx_lua_batching(place: Place) -> Iterator[Running]:
    with _nginx_lua(place, "lua-batching", hold_seconds=BATCH_SECONDS) as running:
        yield running


@contextmanager
def _nginx_lua(place: Place, name: str, *, hold_seconds: float) -> Iterator[Running]:
    if not (machine.nginx_modules() / "ngx_http_lua_module.so").is_file():
        raise Missing("nginx's Lua module: apt install libnginx-mod-http-lua lua-cjson")
    redis = urlsplit(settings.REDIS_URL)
    environment = _same_job(place) | {
        "BENCH_REDIS_PORT": str(redis.port),
        "BENCH_REDIS_PASSWORD": redis.password or "",
    }
    words = {
        "MODULES": str(machine.nginx_modules()),
        "HERE": str(HERE / "nginx"),
        "HOLD_SECONDS": str(hold_seconds),
        "UPSTREAM_PORT": str(place.upstream_port),
    }
    with _nginx("gateway.conf", _home(place.folder, name), environment, **words) as running:
        yield running


@contextmanager
def _nginx(
    configuration: str, home: Path, environment: dict[str, str] | None = None, **words: str
) -> Iterator[Running]:
    port = traffic.free_port()
    text = (HERE / "nginx" / configuration).read_text()
    user = pwd.getpwuid(os.geteuid())
    words |= {
        "PORT": str(port),
        "USER": user.pw_name,
        "GROUP": grp.getgrgid(user.pw_gid).gr_name,
    }
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    (home / "nginx.conf").write_text(text)
    command = ["nginx", "-p", home, "-c", "nginx.conf", "-e", "error.log"]
    log = home / "output.log"
    with serving(command, port=port, log=log, environment=environment) as pid:
        yield Running(port, [pid])


def _home(folder: Path, name: str) -> Path:
    home = folder / name
    home.mkdir()
    return home


# ------------------------------------------------------------------ Fastify


@contextmanager
def fastify(place: Place) -> Iterator[Running]:
    port = traffic.free_port()
    home = _node_packages(place.cache / "fastify")
    environment = _same_job(place) | {
        "NODE_ENV": "production",
        "BENCH_PORT": str(port),
        "BENCH_UPSTREAM": place.upstream_url,
    }
    log = place.folder / "fastify.log"
    command = ["node", home / "server.js"]
    with serving(command, port=port, log=log, environment=environment) as pid:
        yield Running(port, [pid])


def _node_packages(home: Path) -> Path:
    """A folder with the server and its packages, installed again when their lock has changed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Missing("node 20.15 or newer and npm: apt install nodejs npm")
    home.mkdir(parents=True, exist_ok=True)
    for name in ("server.js", "package.json", "package-lock.json"):
        shutil.copy(HERE / "fastify" / name, home)
    lock, installed = home / "package-lock.json", home / "installed.json"
    if not installed.is_file() or installed.read_bytes() != lock.read_bytes():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        if subprocess.run(command, cwd=home, check=False).returncode != 0:
            raise Missing("its packages, which npm could not install")
        shutil.copy(lock, installed)
    return home


# ------------------------------------------------------------------ what all are given


def _same_job(place: Place) -> dict[str, str]:
    """The scripts, the pepper and the texts of refusals, for those who are not Python."""
    problems = place.folder / "problems.json"
    bodies = {
        code: {"status": status, "body": Refusal(code).body().decode()}
        for code, (status, _, _) in PROBLEMS.items()
    }
    problems.write_text(json.dumps(bodies))
    return {
        "BENCH_SCRIPTS": str(SCRIPTS),
        "BENCH_PROBLEMS": str(problems),
        "KEY_PEPPER": settings.KEY_PEPPER,
        "REDIS_URL": settings.REDIS_URL,
    }


STREAM = seller.entries_in_stream

CONTESTANTS = [
    Contestant("keystile", "Keystile", keystile, STREAM),
    Contestant("lua", "nginx + Lua, same job", nginx_lua, STREAM),
    Contestant("lua-batching", "nginx + Lua, batching", nginx_lua_batching, STREAM),
    Contestant("fastify", "Fastify", fastify, STREAM),
    Contestant("drf", "obvious DRF", obvious_drf, seller.rows_in_ledger),
    Contestant("plain", "nginx, plain proxy", plain_proxy, None),
]
