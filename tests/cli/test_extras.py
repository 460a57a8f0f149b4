"""What to install for a module that is missing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from metergate.cli.extras import _EXTRAS, advice

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
PACKAGES = {
    "dotenv": "python-dotenv",
    "jwt": "pyjwt",
    "prometheus_client": "prometheus-client",
    "uvloop": "granian[uvloop]",
    "yaml": "pyyaml",
    "cryptography": "pyjwt[crypto]",
}


def names(extra: str) -> set[str]:
    """With what they are asked for with (``pyjwt[crypto]``), and without."""
    listed = [re.split(r"[><=]", each)[0].lower() for each in PROJECT["optional-dependencies"][extra]]
    return {*listed, *(each.partition("[")[0] for each in listed)}


@pytest.mark.parametrize("module", _EXTRAS)
def test_the_extra_that_is_named_brings_the_module(module):
    package = PACKAGES.get(module, module)
    both = names("gateway") & names("embedded")
    where = {"all": both, "gateway": names("gateway") - both, "embedded": names("embedded") - both}
    assert package in where[_EXTRAS[module]]


def test_a_module_below_a_package_is_advised_on_and_an_unknown_one_is_not():
    below = advice(ModuleNotFoundError("no", name="starlette.routing"))
    assert below is not None
    assert "metergate[embedded]" in below
    assert advice(ModuleNotFoundError("no", name="nonsense")) is None
    assert advice(ModuleNotFoundError("no")) is None
