"""The Ansible role: two hosts become a cluster that is as declared, and a second run changes nothing.

What needs root, systemd or a package manager is not run here: that the package and etcd are installed, and that the daemon is
restarted by its service. These tasks are parsed and linted, and `scripts/test host` installs the same package with the same tools.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TRANCHE, TRANCHED, Daemon

ROLE = ROOT / "dist/ansible"
DECLARED = {
    "policy": {"placement": "spread"},
    "gpus": [{"host": host, "address": "0000:41:00.0", "mode": {"mode": "partitioned", "count": 2}} for host in ["node1", "node2"]],
    "vms": [{"name": "desk-01", "gpu": {"kind": "partition"}, "running": True, "hardware": {"vcpus": 1, "memory_mib": 1024}}],
}


def environment(tmp_path: Path) -> dict[str, str]:
    of_ansible = {"ANSIBLE_HOME": str(tmp_path), "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "true", "LC_ALL": "C.UTF-8"}
    return {**os.environ, **of_ansible}


@pytest.fixture
def inventory(daemons: list[Daemon], tmp_path: Path) -> Path:
    hosts = {
        daemon.host: {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "tranche_address": "127.0.0.1",
            "tranche_settings": daemon.settings,
            "tranche_settings_file": str(daemon.settings_file),
            "tranche_socket": str(daemon.socket),
        }
        for daemon in daemons
    }
    of_all = {
        "tranche_become": False,
        "tranche_cluster": True,
        "tranche_command": str(TRANCHE),
        "tranche_daemon": str(TRANCHED),
        "tranche_declaration": DECLARED,
        "tranche_is_service": False,
    }
    path = tmp_path / "inventory.json"
    path.write_text(json.dumps({"gpu_hosts": {"hosts": hosts, "vars": of_all}}))
    return path


def play(inventory: Path, *arguments: str) -> dict[str, int]:
    """Runs the playbook, and gives how much it changed on each host."""
    command = ["ansible-playbook", "-i", inventory, ROLE / "site.yml", *arguments]
    ran = subprocess.run(command, env=environment(inventory.parent), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "TRANCHE1." not in ran.stdout, "a join token is a secret"
    recap = ran.stdout.split("PLAY RECAP")[1]
    return {host: int(changed) for host, changed in re.findall(r"^(\S+) +:.* changed=(\d+)", recap, re.MULTILINE)}


def test_hosts_become_a_cluster_that_is_as_declared_and_a_second_run_changes_nothing(
    daemons: list[Daemon], inventory: Path
) -> None:
    changed = play(inventory)
    assert changed["node1"] > 0 and changed["node2"] > 0
    for daemon in daemons:
        status = json.loads(daemon.tranche("cluster", "status", "-o", "json"))
        assert sorted(member["host"] for member in status["members"]) == ["node1", "node2"]
        assert [vm["state"] for vm in daemon.json("vm", "list")] == ["running"]
    partitions = daemons[1].json("partition", "list")
    assert [partition["host"] for partition in partitions] == ["node1", "node1", "node2", "node2"]
    assert daemons[0].settings_file.read_text().startswith("# Ansible managed")

    assert play(inventory) == {"node1": 0, "node2": 0}

    # What is only looked at does not happen.
    inventory.write_text(inventory.read_text().replace('"running": true', '"running": false'))
    assert play(inventory, "--check") == {"node1": 1, "node2": 0}
    assert [vm["state"] for vm in daemons[0].json("vm", "list")] == ["running"]


def test_the_playbook_is_sound_and_follows_the_rules_of_the_trade(tmp_path: Path) -> None:
    command = ["ansible-playbook", "--syntax-check", "-i", ROLE / "inventory.yml", ROLE / "site.yml"]
    subprocess.run(command, env=environment(tmp_path), check=True)
    lint = ["ansible-lint", "--offline", "--strict", "--profile", "production", "--project-dir", ".", "site.yml", "roles/tranche"]
    subprocess.run(lint, cwd=ROLE, env=environment(tmp_path), check=True)
