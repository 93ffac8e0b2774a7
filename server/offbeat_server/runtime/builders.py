"""One builder for each role, of the parts in `parts.py`.

The order of the calls is the order of the start. The stop is that order backwards: first connections are no longer
accepted, then the pending pings are committed, then the committed pings are evaluated and the decisions written, then
the lease is given up.
"""

import os
import socket

from offbeat_server.runtime.parts import Parts
from offbeat_server.runtime.sockets import bind_socket


async def build_all(parts: Parts) -> None:
    """Start everything in one process."""
    await parts.check_settings()
    parts.fit_descriptors()
    await parts.open_database()
    await parts.prepare_database()
    await parts.connect()
    await parts.apply_config()
    await parts.start_transport()
    await parts.start_dispatcher()
    await parts.start_scheduler()
    await parts.start_key_index()
    listen_on = bind_socket(parts.settings.host, parts.settings.port)
    await parts.start_log_writer(metrics_port=listen_on.getsockname()[1])
    address = await parts.start_http_servers(listen_on)
    parts.systemd.ready(f"listening on {address}")
    await parts.show_banner(address)


async def build_main(parts: Parts) -> None:
    """Start the main process: it evaluates and notifies, and starts the workers, which take pings."""
    await parts.check_settings()
    await parts.open_database()
    await parts.prepare_database()
    await parts.connect()
    await parts.apply_config()
    await parts.start_transport()
    metrics_port = await parts.start_metrics_server()
    await parts.start_dispatcher()
    await parts.start_scheduler(metrics_port)
    parts.follow_clock()
    address = await parts.start_workers()
    parts.systemd.ready(f"listening on {address}")
    await parts.show_banner(address)


async def build_worker(parts: Parts, listen_on: socket.socket, ready_pipe: int) -> None:
    """Start a worker on the socket that all workers share. Write a byte to `ready_pipe` when it takes pings."""
    parts.fit_descriptors()
    await parts.open_database()
    await parts.connect()
    await parts.start_key_index()
    # The shared port leads Prometheus to any of the workers, so each has a port of its own for its metrics.
    metrics_port = await parts.start_metrics_server()
    await parts.start_log_writer(metrics_port)
    address = await parts.start_http_servers(listen_on)
    parts.systemd.ready(f"listening on {address}")
    os.write(ready_pipe, b"1")
    os.close(ready_pipe)
    parts.follow_main_process()
