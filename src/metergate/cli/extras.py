"""Which extra of the package brings a module that is not there."""

from __future__ import annotations

_EXTRAS = {
    "cryptography": "gateway",
    "dotenv": "gateway",
    "duckdb": "embedded",
    "granian": "all",
    "jwt": "all",
    "prometheus_client": "gateway",
    "rich": "all",
    "starlette": "embedded",
    "typer": "all",
    "uvloop": "all",
    "yaml": "embedded",
}


def advice(missing: ModuleNotFoundError) -> str | None:
    """What to install; None for a module that no extra brings, which is a mistake of ours."""
    module = (missing.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        return None
    return f"error: this needs more than is installed ({module} is missing): pip install 'metergate[{extra}]'"
