"""Projects for the gateway, written out of plain values, for a test that needs one of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from metergate.testing.processes import ServerFailed, metergate_command

RUNTIME = "$import(@zuplo/runtime)"


def forward(base_url: str) -> dict[str, Any]:
    """A handler that appends the path to ``base_url``, which may hold ``${env.NAME}``."""
    return {"export": "urlForwardHandler", "module": RUNTIME, "options": {"baseUrl": base_url}}


def route(
    handler: Mapping[str, Any], *, inbound: Sequence[str] = (), outbound: Sequence[str] = ()
) -> dict[str, Any]:
    """An OpenAPI operation that ``handler`` answers, behind the policies of these names."""
    policies = {"inbound": list(inbound), "outbound": list(outbound)}
    return {"x-zuplo-route": {"corsPolicy": "none", "handler": dict(handler), "policies": policies}}


def policy(name: str, policy_type: str, export: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A built-in policy as ``policies.json`` has it."""
    handler = {"export": export, "module": RUNTIME, "options": dict(options)}
    return {"name": name, "policyType": policy_type, "handler": handler}


def openmeter_policy(name: str = "metered", **options: Any) -> dict[str, Any]:
    """An ``openmeter-inbound`` policy; its key defaults to what `gateway_server` gives the gateway."""
    defaults = {"apiKey": "$env(OPENMETER_API_KEY)"}
    return policy(name, "openmeter-inbound", "OpenMeterInboundPolicy", {**defaults, **options})


def api_key_policy(name: str = "keys", **options: Any) -> dict[str, Any]:
    """An ``api-key-inbound`` policy; keys are made by `create_key`."""
    return policy(name, "api-key-inbound", "ApiKeyInboundPolicy", options)


def custom_policy(name: str, module: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A ``custom-code-inbound`` policy: the function ``default`` of ``modules/<module>.py``."""
    handler = {"export": "default", "module": f"$import(./modules/{module})", "options": dict(options or {})}
    return {"name": name, "policyType": "custom-code-inbound", "handler": handler}


def write_project(
    folder: Path,
    routes: Mapping[str, Mapping[str, Mapping[str, Any]]],
    policies: Sequence[Mapping[str, Any]] = (),
    *,
    path_mode: str = "url-pattern",
) -> Path:
    """Write ``config/policies.json`` and ``config/routes.oas.json``; gives ``folder``.

    ``routes`` maps a path to its methods (lower case) and these to what `route` makes.
    """
    config = folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    paths = {path: {"x-zuplo-path": {"pathMode": path_mode}, **methods} for path, methods in routes.items()}
    document = {"openapi": "3.1.0", "info": {"title": folder.name, "version": "1"}, "paths": paths}
    (config / "policies.json").write_bytes(msgspec.json.encode({"policies": list(policies)}))
    (config / "routes.oas.json").write_bytes(msgspec.json.encode(document))
    return folder


def create_key(project: Path, consumer: str, metadata: Mapping[str, Any] | None = None) -> str:
    """An API key for ``consumer``, made by the command that an operator uses. Raises `ServerFailed`."""
    command = metergate_command("keys", "create", consumer, "--project", project)
    if metadata is not None:
        command += ["--metadata", msgspec.json.encode(metadata).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
    words = done.stdout.split()
    if done.returncode or not words:
        raise ServerFailed(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return next((word for word in words if word.startswith("mg_")), words[-1])
