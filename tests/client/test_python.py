"""The Python package: a GPU is split and a VM lives and dies through it, on the socket and over HTTPS."""

import asyncio
from pathlib import Path

import pytest
import tranche_client
from conftest import Daemon
from tranche_client import Failed, Late, Refused, answer, done, every
from tranche_client.rest import Client
from tranche_client.rest.api.gpus import list_gpus, list_partitions, set_gpu_mode
from tranche_client.rest.api.installation import diff, list_findings
from tranche_client.rest.api.vms import create_vm, delete_vm, list_vms, show_vm, start_vm, stop_vm
from tranche_client.rest.models import (
    AskedModeHost,
    AskedModePartitioned,
    CreateVm,
    Declaration,
    DeclaredGpu,
    GpuModePartitioned,
    Preview,
    RequestPartition,
    VmHardware,
    VmState,
)

GPU = ("node1", "0000:41:00.0")
HARDWARE = VmHardware(vcpus=2, memory_mib=2048)


@pytest.fixture(params=["socket", "https"])
def client(request: pytest.FixtureRequest, daemon: Daemon) -> Client:
    if request.param == "socket":
        return tranche_client.connect(socket=daemon.socket)
    token = daemon.tranche("--quiet", "token", "create", f"test-{id(request)}", "--role", "admin").strip()
    return tranche_client.connect(daemon.url, token=token, authority=daemon.certificate)


def test_a_gpu_is_split_and_a_vm_made_started_stopped_and_deleted(client: Client) -> None:
    assert {gpu.model for gpu in answer(list_gpus.sync_detailed(client=client))} == {"NVIDIA A16", "NVIDIA L40S"}

    asked = set_gpu_mode.sync_detailed(*GPU, client=client, body=AskedModePartitioned(count=4))
    (operation,) = done(client, asked)
    assert operation.title == "split GPU node1/0000:41:00.0 into 4 partitions"
    partitions = answer(list_partitions.sync_detailed(client=client))
    assert [partition.profile for partition in partitions] == ["4Q"] * 4

    new = CreateVm(name="desk-01", hardware=HARDWARE, request=RequestPartition())
    done(client, create_vm.sync_detailed(client=client, body=new))
    done(client, start_vm.sync_detailed("desk-01", client=client))
    vm = answer(show_vm.sync_detailed("desk-01", client=client))
    assert (vm.state, vm.device) == (VmState.RUNNING, "0000:41:00.4")

    done(client, stop_vm.sync_detailed("desk-01", client=client))
    done(client, delete_vm.sync_detailed("desk-01", client=client))
    assert answer(list_vms.sync_detailed(client=client)) == []
    done(client, set_gpu_mode.sync_detailed(*GPU, client=client, body=AskedModeHost()))
    assert answer(list_findings.sync_detailed(client=client)) == []


def test_a_refusal_is_an_exception_with_its_code_and_its_hint(client: Client) -> None:
    with pytest.raises(Refused) as refused:
        answer(set_gpu_mode.sync_detailed(*GPU, client=client, body=AskedModePartitioned(count=3)))
    assert refused.value.problem.code == "invalid_partition_count"
    assert refused.value.problem.hint == "Its driver offers: 1, 2, 4, 8, 16."


def test_what_a_dry_run_answers_has_nothing_to_wait_for(client: Client) -> None:
    asked = set_gpu_mode.sync_detailed(*GPU, client=client, body=AskedModePartitioned(count=4), dry_run=True)
    assert done(client, asked) == []
    preview = answer(asked)
    assert isinstance(preview, Preview)
    assert preview.changes == ["split GPU node1/0000:41:00.0 into 4 partitions"]


def test_what_is_not_done_in_time_is_late_and_what_is_superseded_has_failed(client: Client) -> None:
    new = CreateVm(name="waits", hardware=HARDWARE, request=RequestPartition())
    done(client, create_vm.sync_detailed(client=client, body=new))
    started = start_vm.sync_detailed("waits", client=client)
    with pytest.raises(Late) as late:
        done(client, started, timeout_s=0.2)
    assert [finding.code for finding in late.value.operation.findings] == ["no_free_partition"]
    done(client, stop_vm.sync_detailed("waits", client=client))
    with pytest.raises(Failed):
        done(client, started)
    done(client, delete_vm.sync_detailed("waits", client=client))


def test_a_list_is_read_page_by_page(client: Client) -> None:
    whole = [gpu.address for gpu in answer(list_gpus.sync_detailed(client=client))]
    assert len(whole) == 5
    assert [gpu.address for gpu in every(list_gpus, client, page_len=2)] == whole


def test_requests_can_be_asynchronous(client: Client) -> None:
    declared = DeclaredGpu(address=GPU[1], mode=GpuModePartitioned(count=2))

    async def ask() -> list[str]:
        async with client:
            return answer(await diff.asyncio_detailed(client=client, body=Declaration(gpus=[declared]))).changes

    assert asyncio.run(ask()) == ["split GPU node1/0000:41:00.0 into 2 partitions"]


def test_nobody_gets_in_without_a_token_or_past_a_certificate(daemon: Daemon) -> None:
    with pytest.raises(Refused) as refused:
        answer(list_vms.sync_detailed(client=tranche_client.connect(daemon.url, authority=daemon.certificate)))
    assert refused.value.problem.code == "login_required"
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
        list_vms.sync_detailed(client=tranche_client.connect(daemon.url, token="tranche_a.b"))
    with pytest.raises(ValueError, match="https"):
        tranche_client.connect("http://localhost", token="tranche_a.b")


def test_every_request_of_the_document_is_in_the_package() -> None:
    import json

    from conftest import ROOT

    document = json.loads((ROOT / "openapi/v1.json").read_text())
    requests = [(of["tags"][0], of["operationId"]) for methods in document["paths"].values() for of in methods.values()]
    package = Path(tranche_client.__file__).parent / "rest" / "api"
    assert [(tag, name) for tag, name in requests if not (package / tag / f"{name}.py").is_file()] == []
