"""nginx's `proxy_pass`, which the daemon's figures are compared with."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

STOP_TIMEOUT_S = 10.0
_CONFIG = """
worker_processes 1; daemon off; pid nginx.pid; error_log error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600; client_body_buffer_size 8m;
  client_max_body_size 0;
  client_body_temp_path body; proxy_temp_path proxied;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream far {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://far; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


class Nginx(msgspec.Struct, frozen=True):
    """One that runs."""

    pid: int
    port: int


@contextlib.contextmanager
def nginx(directory: Path, upstream_port: int) -> Iterator[Nginx | None]:
    """Run one before the upstream; None where there is none that could be run.

    It inherits its listening socket as it does from an older nginx that it replaces, so that the
    system can choose the port.
    """
    program = shutil.which("nginx")
    if program is None:
        yield None
        return
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        config = directory / "nginx.conf"
        config.write_text(_CONFIG.format(upstream=upstream_port, port=port))
        command = [program, "-e", "error.log", "-p", str(directory), "-c", str(config)]
        tested = subprocess.run([*command, "-t"], capture_output=True, check=False)
        if tested.returncode:
            yield None
            return
        fd = listener.fileno()
        process = subprocess.Popen(
            command,
            env={**os.environ, "NGINX": f"{fd};"},
            pass_fds=[fd],
            start_new_session=True,
        )
    try:
        yield Nginx(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
