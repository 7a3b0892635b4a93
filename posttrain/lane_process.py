"""The inside of a lane's process: takes rights away, constructs what it is for, and answers until the other end is closed.

Protocol, over the socket that was handed down: first a greeting, or a `Failure` to construct; then, for each (number, request) that
comes, any number of (number, answer). What is sent is plain data, so that the other side imports nothing of a plug-in's.
"""

import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from posttrain import plugins
from posttrain.errors import UserError
from posttrain.lanes import Failure
from posttrain.sandbox.kernel import die_with_parent

NICENESS = 5
"""This runs beside engines that are sampling; what loops for ever should not slow them down much."""

Send = Callable[[Any], None]
"""Sends one answer to the request at hand."""
Answering = Callable[[Any, Send], None]
"""Answers a request; several threads may call it at once where the concurrency is above 1."""


def serve(descriptor: int, memory_gb: float, construct: Callable[[], tuple[Any, Answering, int]]) -> None:
    """Answers until the other end is closed.

    construct: gives the greeting, what answers, and how many requests it answers at a time; a UserError of its is the greeting.
    """
    die_with_parent(signal.SIGKILL)  # what hangs must not outlive a driver that was killed
    os.nice(NICENESS)
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        greeting, answer, concurrency = construct()
    except UserError as error:
        connection.send(Failure("error", str(error), is_mistake=True))
        return
    connection.send(greeting)
    threads = ThreadPoolExecutor(concurrency) if concurrency > 1 else None
    sending = threading.Lock()

    def answer_one(number: int, request: Any) -> None:
        def send(what: Any) -> None:
            with sending:
                connection.send((number, what))

        answer(request, send)

    while True:
        try:
            number, request = connection.recv()
        except EOFError:
            os._exit(0)  # without waiting for threads whose answers nobody wants
        if threads is None:
            answer_one(number, request)
        else:
            threads.submit(answer_one, number, request)


def construct_plugin(group: str, name: str, kind: type) -> Any:
    """An object of the class that is registered as `name` under `group`, made without arguments.

    Raises UserError: there is none, it is no subclass of `kind`, or it cannot be constructed.
    """
    plugin = plugins.load(group, name)
    if not (isinstance(plugin, type) and issubclass(plugin, kind)):
        raise UserError(f"{plugins.describe(group, name)} is not a subclass of {kind.__module__}.{kind.__name__}")
    try:
        return plugin()
    except UserError:
        raise
    except Exception as error:  # as in plugins.load: a plug-in that cannot start is its author's to mend
        text = " ".join(str(error).split())
        raise UserError(f"{plugins.describe(group, name)} cannot be constructed: {type(error).__name__}: {text}") from error
