"""The servers of a measurement as processes: upstream, bare forwarding, Envoy, the sink."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import MEASURED, OTHERS, on_core
from metergate.testing.processes import HOST, Server, free_port

ANSWER = '{"ok":true,"items":[1,2,3],"name":"upstream!!"}'


def start_measured(server: Server) -> Server:
    """Start it on the core of what is measured."""
    with on_core(MEASURED):
        return server.start()


def start_beside(server: Server) -> Server:
    """Start it on the other core."""
    with on_core(OTHERS):
        return server.start()


def granian(
    target: str, folder: Path, *, interface: str = "rsgi", env: dict[str, str | None] | None = None
) -> Server:
    """Granian with one worker; ``target`` is ``module:attribute``."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "granian",
        "--interface",
        interface,
        "--port",
        str(port),
        "--no-ws",
        target,
    ]
    log = folder / f"{target.replace(':', '.')}.log"
    return Server(command, url=f"http://{HOST}:{port}", ready="/", log=log, env=env)


def upstream(folder: Path) -> tuple[Server, str]:
    """A server of one short answer, and what it is: nginx where it is installed."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        return granian("benchmarks.hello:application", folder), "upstream: Granian (no nginx installed)"
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(_nginx_configuration(folder, port), "utf-8")
    command = [nginx, "-p", str(folder), "-c", str(file), "-e", str(folder / "nginx-error.log")]
    server = Server(command, url=f"http://{HOST}:{port}", ready="/", log=folder / "nginx.log")
    return server, "upstream: nginx"


def _nginx_configuration(folder: Path, port: int) -> str:
    return f"""
        worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
        events {{ worker_connections 1024; }}
        http {{
          access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body;
          proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
          scgi_temp_path {folder}/scgi;
          server {{
            listen {HOST}:{port};
            location / {{ default_type application/json; return 200 '{ANSWER}'; }}
          }}
        }}"""


def envoy(folder: Path, upstream_port: int) -> Server | None:
    """Envoy with one worker in front of the upstream; None where it is not installed."""
    binary = Path(sys.executable).with_name("envoy")
    found = str(binary) if binary.exists() else shutil.which("envoy")
    if found is None:
        return None
    port = free_port()
    file = folder / "envoy.json"
    file.write_bytes(msgspec.json.encode(_envoy_configuration(port, upstream_port)))
    command = [found, "-c", str(file), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    return Server(command, url=f"http://{HOST}:{port}", ready="/", log=folder / "envoy.log")


def _envoy_configuration(port: int, upstream_port: int) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions.filters"
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{types}.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ]
        },
        "http_filters": [router],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": _socket_address(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "upstream",
                    "type": "STATIC",
                    "circuit_breakers": {
                        "thresholds": [{"max_connections": 4096, "max_pending_requests": 4096}]
                    },
                    "load_assignment": {
                        "cluster_name": "upstream",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": _socket_address(upstream_port)}}]}
                        ],
                    },
                }
            ],
        }
    }


def _socket_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}
