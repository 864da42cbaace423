"""The handbook's example of a cluster in one file: planned, applied, applied again, and pruned."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, Daemon

EXAMPLE = (ROOT / "docs/examples/cluster.yaml").read_text()
CHANGES = 6


def changes(printed: str) -> list[str]:
    """The changes that a plan names, without what becomes of each VM."""
    return re.findall(r"^  (\S.*)$", printed.split("\n\n")[0], re.MULTILINE)


def names(daemon: Daemon) -> dict[object, object]:
    return {vm["name"]: vm["state"] for vm in daemon.json("vm", "list")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cluster.yaml"


def test_a_cluster_comes_from_a_file_and_follows_it(daemon: Daemon, file: Path) -> None:
    file.write_text(EXAMPLE)
    planned = changes(daemon.tranche("diff", "-f", file, code=CHANGES))
    assert planned == [
        "change the policies",
        "split GPU node1/0000:41:00.0 into 4 partitions",
        "split GPU node1/0000:42:00.0 into 4 partitions",
        "create VM desk-01",
        "start VM desk-01",
        "create VM desk-02",
        "start VM desk-02",
        "create VM build-01",
        "set rule apart",
    ]
    assert daemon.json("vm", "list") == [], "a plan changes nothing"

    daemon.tranche("apply", "-f", file)
    assert names(daemon) == {"desk-01": "running", "desk-02": "running", "build-01": "stopped"}

    assert changes(daemon.tranche("diff", "-f", file)) == []
    before = daemon.json("operation", "list")
    daemon.tranche("apply", "-f", file)
    assert daemon.json("operation", "list") == before, "applying it again changes nothing"

    # What the file does not name is left alone, and what runs is not pruned.
    kept, removed = without(EXAMPLE, "desk-02")
    file.write_text(kept)
    assert changes(daemon.tranche("diff", "-f", file)) == []
    daemon.tranche("apply", "-f", file, "--prune", code=3)
    assert names(daemon)["desk-02"] == "running"

    # Turned off by the file, then gone from it.
    file.write_text(kept.replace("\nvms:\n", "\nvms:\n" + removed.replace("running: true", "running: false")))
    daemon.tranche("apply", "-f", file)
    file.write_text(kept)
    assert changes(daemon.tranche("diff", "-f", file, "--prune", code=CHANGES)) == ["delete rule apart", "delete VM desk-02"]
    daemon.tranche("apply", "-f", file, "--prune")
    assert names(daemon) == {"desk-01": "running", "build-01": "stopped"}
    assert changes(daemon.tranche("diff", "-f", file, "--prune")) == []


def without(text: str, vm: str) -> tuple[str, str]:
    """The file without a VM and without the rules about it, and the lines of the VM, on their own feet."""
    found = re.search(rf"  - name: {vm}\n.*?\n\n", text, re.DOTALL)
    assert found is not None
    kept = text.replace(found.group(), "").split("\nrules:\n")[0] + "\n"
    hardware = "{vcpus: 4, memory_mib: 8192, networks: [default], guest_os: ubuntu22.04}"
    return kept, found.group().replace("*desk", hardware)
