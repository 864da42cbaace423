"""A real daemon with a made-up host, for each module of tests; and the command that asks it.

TRANCHED and TRANCHE name the programs; else those that `cargo build` makes are taken.
"""

import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRANCHED = Path(os.environ.get("TRANCHED", ROOT / "target/debug/tranched")).resolve()
TRANCHE = Path(os.environ.get("TRANCHE", ROOT / "target/debug/tranche")).resolve()
# What the daemon says when its console is there, after which all else is.
SERVED = "the console is served over HTTPS"


@dataclass
class Daemon:
    """A daemon on a host with an NVIDIA A16 (four GPUs) and an L40S, none of which exist. It runs etcd itself, if it comes to that."""

    directory: Path
    host: str = "node1"
    ports: list[int] = field(default_factory=lambda: free_ports(4))
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        return self.directory / "socket"

    @property
    def url(self) -> str:
        return f"https://localhost:{self.ports[0]}"

    @property
    def certificate(self) -> Path:
        return self.directory / "served.crt"

    @property
    def key(self) -> Path:
        return self.directory / "served.key"

    @property
    def settings_file(self) -> Path:
        return self.directory / "tranched.toml"

    @property
    def settings(self) -> dict[str, dict[str, object]]:
        """Its settings, by section."""
        web, port, client_port, peer_port = self.ports
        main = {
            "host": self.host,
            "state_dir": str(self.directory / "state"),
            "socket": str(self.socket),
            "socket_group": "no-such-group",
            "catalogue_dir": str(self.directory / "catalogue.d"),
        }
        return {
            "main": main,
            "cluster": {"address": "127.0.0.1", "port": port},
            "etcd": {"run": "child", "client_port": client_port, "peer_port": peer_port},
            "console": {"listen": f"127.0.0.1:{web}", "certificate": str(self.certificate), "key": str(self.key)},
            "log": {"format": "json"},
        }

    def start(self) -> None:
        make_certificate(self.certificate, self.key)
        lines = []
        for section, settings in self.settings.items():
            lines += [f"[{section}]"] if section != "main" else []
            lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        self.settings_file.write_text("\n".join(lines) + "\n")
        command = [TRANCHED, "--config", self.settings_file, "--fake-host", "nvidia"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.wait_until_served()

    def wait_until_served(self) -> None:
        """Reads what the daemon says up to the line that says so, or to its end."""
        assert self.process is not None and self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if SERVED in line:
                # A daemon whose words nobody takes would stand still.
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return
        pytest.fail(f"{TRANCHED} ended: {''.join(said)}")

    def tranche(self, *arguments: str | Path, code: int = 0) -> str:
        """Runs the command on it, and gives what it printed."""
        ran = subprocess.run([TRANCHE, "--socket", self.socket, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == code, f"tranche {arguments}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def json(self, *arguments: str | Path) -> list[dict[str, object]]:
        return json.loads(self.tranche(*arguments, "-o", "json"))

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def make_certificate(certificate: Path, key: Path) -> None:
    """One that a client can check: the daemon's own is for its own name."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )


# Below those that the kernel gives to connections: somebody listens there only later.
PORTS = range(20_000, 30_000)
tried = itertools.count(os.getpid() * 64)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses; tests that begin at once look in different places."""
    ports: list[int] = []
    while len(ports) < count:
        port = PORTS[next(tried) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
    return ports


@contextmanager
def running(host: str) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="tranche-client-") as directory:
        daemon = Daemon(Path(directory), host)
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.stop()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running("node1") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def daemons() -> Iterator[list[Daemon]]:
    """Two hosts that know nothing of each other yet."""
    with running("node1") as first, running("node2") as second:
        yield [first, second]
