"""Client of Tranche.

`tranche_client.rest` is generated from the OpenAPI document: a module for each request below `rest.api`, a class for each type in
`rest.models`. This module has what cannot be generated: the way to a daemon, refusals as exceptions, waiting for an operation.

    import tranche_client
    from tranche_client.rest.api.vms import list_vms, start_vm

    with tranche_client.connect() as daemon:
        for vm in tranche_client.every(list_vms, daemon):
            print(vm.name, vm.state)
        tranche_client.done(daemon, start_vm.sync_detailed("desk-01", client=daemon))
"""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx

from .rest import Client
from .rest.api.operations import show_operation
from .rest.models import Accepted, Applied, Operation, OperationState, Problem
from .rest.types import Response

__all__ = ["Failed", "Late", "Refused", "answer", "connect", "done", "every"]

SOCKET = "/run/tranche/tranche.sock"
# The daemon answers within 30 s, or says that it cannot.
ANSWER_TIMEOUT_S = 35.0
# The longest page of a list.
PAGE_LEN_MAX = 1_000
# How long one question may wait for an operation's end.
LOOK_EVERY_MS = 10_000

T = TypeVar("T")


class Refused(Exception):
    """The daemon refused, and changed nothing. `problem` has the code, the hint and all findings."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail} [{problem.code}] {problem.hint}")
        self.problem = problem


class Failed(Exception):
    """What was accepted did not come about, or something newer took its place. `operation` has the findings and the log."""

    def __init__(self, operation: Operation) -> None:
        why = " ".join(f"{finding.message} [{finding.code}] {finding.hint}" for finding in operation.findings)
        super().__init__(f"{operation.title}: {operation.state}. {why}".rstrip())
        self.operation = operation


class Late(Exception):
    """It was accepted and is not done yet; it goes on by itself. `operation` says what it waits for."""

    def __init__(self, operation: Operation) -> None:
        why = " ".join(finding.message for finding in operation.findings)
        super().__init__(f"{operation.title}: {operation.state}. {why}".rstrip())
        self.operation = operation


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    authority: str | Path | None = None,
    socket: str | Path = SOCKET,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Client:
    """A client of the daemon on this host's socket, or, with a URL such as `https://node1:7440`, of one on the network.

    `token` is what `tranche token create` printed. `authority` is the file with the certificate that the daemon's is
    certified by (of a cluster: pki/authority.crt in its state directory), where the system does not know it. A certificate is always
    checked.
    """
    if url is None:
        arguments: dict[str, Any] = {"base_url": "http://localhost", "timeout": timeout_s}
        sync_way, async_way = httpx.HTTPTransport(uds=str(socket)), httpx.AsyncHTTPTransport(uds=str(socket))
        sync_client = httpx.Client(transport=sync_way, **arguments)
        async_client = httpx.AsyncClient(transport=async_way, **arguments)
    else:
        if not url.startswith("https://"):
            raise ValueError("a daemon on the network is asked over https:// only")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        context = ssl.create_default_context(cafile=None if authority is None else str(authority))
        arguments = {"base_url": url, "headers": headers, "verify": context, "timeout": timeout_s}
        sync_client, async_client = httpx.Client(**arguments), httpx.AsyncClient(**arguments)
    client = Client(base_url=str(arguments["base_url"]), raise_on_unexpected_status=True)
    return client.set_httpx_client(sync_client).set_async_httpx_client(async_client)


def answer(response: Response[T | Problem | None]) -> T:
    """What was answered; raises `Refused` if that is a refusal."""
    if isinstance(response.parsed, Problem):
        raise Refused(response.parsed)
    return response.parsed  # type: ignore[return-value]


def every(request: ModuleType, client: Client, page_len: int = PAGE_LEN_MAX) -> Iterator[Any]:
    """The items of a list, such as `list_vms`, read page by page."""
    asked: dict[str, Any] = {"limit": page_len}
    while asked:
        response = request.sync_detailed(client=client, **asked)
        yield from answer(response)
        # Link: </v1/vms?limit=…&after=…>; rel="next"
        link = response.headers.get("link", "").partition("<")[2].partition(">")[0]
        after = parse_qs(urlsplit(link).query).get("after")
        asked = {"limit": page_len, "after": after[0]} if after else {}


def done(client: Client, response: Response[Any], timeout_s: float = 600.0) -> list[Operation]:
    """Waits until what was accepted is done. What a dry run answers has nothing to wait for.

    Raises `Refused`, `Failed`, or `Late` after `timeout_s` seconds.
    """
    until = time.monotonic() + timeout_s
    accepted = answer(response)
    if isinstance(accepted, Accepted):
        return [_over(client, accepted.operation, until)]
    if isinstance(accepted, Applied):
        return [_over(client, operation, until) for operation in accepted.operations]
    return []


def _over(client: Client, operation: Operation, until: float) -> Operation:
    while operation.state in {OperationState.RUNNING, OperationState.WAITING}:
        left_ms = int((until - time.monotonic()) * 1_000)
        if left_ms <= 0:
            raise Late(operation)
        # The daemon answers when it is over, or after this time.
        asked = show_operation.sync_detailed(operation.id, client=client, wait_ms=min(left_ms, LOOK_EVERY_MS))
        operation = answer(asked)
    if operation.state != OperationState.SUCCEEDED:
        raise Failed(operation)
    return operation
