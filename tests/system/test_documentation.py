"""What README.md and docs/operations.md say is so: commands run, JSON loads, tables name what the code has."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from typer.main import get_command

from metergate.cli.application import application
from metergate.delivery import Delivery, delivery, response
from metergate.delivery.files import DropReason
from metergate.delivery.response import State
from metergate.engine import Backends, denials
from metergate.entitlements import backoff, checks, snapshot
from metergate.entitlements.decision import REASONS
from metergate.gateway import ending
from metergate.gateway.environment import misspelt
from metergate.gateway.health import LATE_SECONDS, Health
from metergate.gateway.metrics.samples import FAMILIES
from metergate.gateway.project import load_project
from metergate.gateway.server import Settings
from metergate.gateway.upstream import Upstream
from metergate.policy import features, options, statuses, traffic
from metergate.policy.expressions import HASH_LENGTH, MOST_TEXT, Expression, read_expression
from metergate.policy.model import DeliveryOptions, Durability, EntitlementCheck, Mode, OnError
from metergate.policy.options import read_options
from metergate.policy.secret import Secret
from metergate.streams import NOT_READ, PROVIDERS
from metergate.testing.processes import HOST, Server, free_port, metergate_command
from metergate.testing.projects import forward, policy, route, write_project

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
OPENMETER = (ROOT / "docs" / "openmeter.md").read_text()
TRAFFIC = (ROOT / "docs" / "meters-from-traffic.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("[CS]*.md"))]
INTERNAL = {"METERGATE_GATEWAY_SETTINGS", "METERGATE_TESTING_JOURNAL"}
"""From one process of ours to the next; nobody sets them by hand."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def rows(heading: str, page: str = OPERATIONS) -> list[list[str]]:
    """The cells of the table whose first column is called that, in docs/operations.md or another page."""
    begin = page.index(f"\n| {heading} |")
    table = page[begin + 1 :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# --- README: what you see


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """What `make run` starts, and the README's ports with the real ones."""
    folder = tmp_path_factory.mktemp("demo")
    ports = {"9000": str(free_port()), "8888": str(free_port()), "9001": str(free_port())}
    options = zip(("--port", "--openmeter-port", "--upstream-port"), ports.values(), strict=True)
    server = Server(
        metergate_command("demo", *(part for option in options for part in option)),
        url=f"http://{HOST}:{ports['9000']}",
        ready="/__metergate/health",
        log=folder / "log",
        env={"TMPDIR": str(folder), "METERGATE_SPOOL": None},
    )
    with server:
        yield server, ports


def test_the_readme_s_commands_show_what_it_says(demo, eventually):
    server, ports = demo
    key = eventually(lambda: re.search(r"^  TINY=(mg_\w+)$", server.output(), re.MULTILINE))[1]
    [session] = [block for block in blocks(README, "console") if "curl" in block]
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(steps) == 5
    assert steps[0][0].startswith("TINY=mg_...")
    for command, expected in steps[1:]:
        for port, real in ports.items():
            command = command.replace(f":{port}", f":{real}")
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"TINY": key, "PATH": "/usr/local/bin:/usr/bin:/bin"},
        )
        pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern, done.stdout.strip(), re.DOTALL), (command, done)


def test_every_metric_of_a_running_gateway_is_explained(demo, call):
    page = call(demo[0].url, "/__metergate/metrics").body.decode()
    shown = set(re.findall(r"^# TYPE (\S+) (?:counter|gauge|histogram)$", page, re.MULTILINE))
    explained = {code(row[0])[0] for row in rows("metric")}
    assert shown
    assert shown <= explained


def test_the_health_page_looks_as_it_is_shown(demo, call):
    [shown] = blocks(OPERATIONS, "json")
    real = call(demo[0].url, "/__metergate/health").json
    example = msgspec.json.decode(shown)
    assert msgspec.json.decode(shown, type=Health).status == "ok"
    assert list(example) == list(real)
    for part in ("delivery", "entitlements"):
        assert [list(one) for one in example[part].values()] == [list(one) for one in real[part].values()]


# --- README and pages: snippets, links, commands


JWT = {"issuer": "https://issuer.example", "audience": "api", "secret": "$env(JWT_SECRET)"}


def test_the_ten_lines_of_configuration_are_a_policy_without_a_warning(tmp_path):
    [snippet] = blocks(README, "json")
    assert snippet.count("\n") <= 10
    policies = json.loads(snippet)["policies"]
    names = [each["name"] for each in policies]
    known = policy("caller", "open-id-jwt-auth-inbound", "OpenIdJwtInboundPolicy", JWT)
    routes = {"/": {"get": route(forward("http://127.0.0.1:1"), inbound=["caller", *names])}}
    project = write_project(tmp_path, routes, [*policies, known])
    environment = {"OPENMETER_API_KEY": "x", "JWT_SECRET": "s" * 32}
    loaded, findings = load_project(
        project, backends=Backends(tmp_path / "spool"), upstream=Upstream(), environment=environment
    )
    assert findings == []
    assert loaded is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_that_is_named_is_there(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^\$ |`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_the_page_of_operations_is_linked_from_the_readme():
    assert "(docs/operations.md)" in README


def commands() -> Iterator[tuple[list[str], set[str]]]:
    """Every command line that the pages show: its words up to the first option or place-holder, and its options."""
    for text in (README, OPERATIONS, OPENMETER):
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        lines = [*code(prose), *re.findall(r"^\$ (.*)$", text, re.MULTILINE)]
        for line in lines:
            if line.startswith("metergate "):
                shown = line.partition("  #")[0]
                words = re.match(r"metergate((?: [a-z]+)+)", shown)
                assert words, line
                yield words[1].split(), set(re.findall(r"--[a-z-]+", shown))


def test_every_command_line_that_is_shown_has_that_command_and_those_options():
    seen = set()
    for words, named in commands():
        command: Any = get_command(application)
        for word in words:
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        assert named <= known, (words, named)
        seen.add(words[0])
    assert seen == {"run", "openmeter", "check", "keys", "deadletters", "demo"}


@pytest.mark.parametrize("option", ["--upstream-timeout", "--max-body", "--workers", "--log-format"])
def test_an_option_that_the_page_of_operations_speaks_of_is_one_of_run(option):
    command: Any = get_command(application)
    assert option in {each for parameter in command.commands["run"].params for each in parameter.opts}
    assert f"`{option}" in OPERATIONS


# --- operations: tables


def test_the_table_of_metrics_is_that_of_the_code():
    kinds = {"counter": "counter", "gauge": "gauge", "highest": "gauge"}
    wanted = {family.name: kinds[family.kind] for family in FAMILIES.values()}
    wanted["metergate_request_seconds"] = "histogram"
    wanted["metergate_build_info"] = "gauge"
    named = {f"{name}_total" if kind == "counter" else name: kind for name, kind in wanted.items()}
    assert {code(row[0])[0]: row[1] for row in rows("metric")} == named
    assert all(row[2] for row in rows("metric"))


def test_the_table_of_variables_is_that_of_the_code():
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    read = set(re.findall(r'"(METERGATE_[A-Z_]+)"', sources)) - INTERNAL
    assert {code(row[0])[0] for row in rows("variable")} == read


def test_no_documented_variable_is_taken_for_a_slip():
    assert list(misspelt({code(row[0])[0]: "x" for row in rows("variable")})) == []


def test_the_table_of_options_is_that_of_the_code():
    table = {code(row[0])[0]: row for row in rows("option")}
    assert set(table) == set(options.OPTIONS)
    defaults = read_options({"apiKey": "k"}, name="p")[0]
    assert defaults is not None
    stated = {name: code(row[1]) for name, row in table.items()}
    assert stated["apiUrl"] == ["METERGATE_OPENMETER_URL", defaults.api_url]
    assert stated["meterOnStatusCodes"] == [f'"{statuses.DEFAULT}"']
    assert stated["eventSource"] == [f'"{defaults.event_source}"']
    assert stated["subjectPath"] == [f'"{defaults.subject_path}"']
    assert (table["meter"][1], table["requiredEntitlements"][1]) == ("none", "none")
    own = set(code(table["requiredEntitlements"][2].partition("In place")[2]))
    assert own == {'{"feature": …}', *features.OPTIONS} - {"feature"}


def test_the_page_on_meters_from_the_traffic_names_what_the_code_has():
    named = [name for row in rows("option of the meter", TRAFFIC) for name in code(row[0])]
    assert set(named) == {*traffic.OPTIONS, "data"}
    [source] = [row for row in rows("option of the meter", TRAFFIC) if code(row[0]) == ["from"]]
    assert set(code(source[2])) == set(PROVIDERS)
    reasons = [reason for row in rows("reason", TRAFFIC) for reason in code(row[0])]
    assert sorted(reasons) == sorted(NOT_READ)
    for row in rows("expression", TRAFFIC):
        for text in code(row[0]):
            read, findings = read_expression(text, Secret("a key to hash with"))
            assert findings == [], text
            assert isinstance(read, Expression) or text.startswith("$$"), text
    assert f"{HASH_LENGTH} digits" in TRAFFIC
    assert f"{MOST_TEXT:,} characters" in TRAFFIC.replace("\n", " ")


def test_the_meters_and_policies_of_the_page_on_the_traffic_load():
    meters = [json.loads(one) for one in blocks(TRAFFIC, "json") if '"from"' in one or '"download"' in one]
    assert len(meters) == 2
    for meter in meters:
        given = {"apiKey": "k", "hashKey": "of more than 16 digits", "meter": meter}
        made, findings = read_options(given, name="p")
        assert (made is not None, findings) == (True, [])


@pytest.mark.parametrize(
    ("group", "shape"), [("entitlementCheck", EntitlementCheck), ("delivery", DeliveryOptions)]
)
def test_the_options_of_a_group_are_those_of_the_code_with_their_defaults(group, shape):
    [row] = [row for row in rows("option") if code(row[0]) == [group]]
    stated = {
        name: said.replace("`", "").split(",")[0] for name, said in re.findall(r"`(\w+)` \(([^)]*)\)", row[2])
    }
    assert set(stated) == set(options.GROUPS[group])
    for name, default in stated.items():
        value = getattr(shape(), re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name))
        assert default == (
            "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        ), name


def test_every_choice_of_an_option_is_named():
    text = " ".join(row[2] for row in rows("option"))
    for name, values in {
        "onError": get_args(OnError),
        "exhaustedStatus": features.EXHAUSTED_STATUSES,
        "mode": get_args(Mode),
        "durability": get_args(Durability),
    }.items():
        said = re.search(rf"`{name}` \(([^)]*)\)", text)
        assert said is not None
        assert set(re.findall(r"\w+", said[1])) - {"or"} == {str(value) for value in values}


def test_every_state_of_delivery_and_every_reason_is_explained():
    states = {name for row in rows("OpenMeter") for name in code(row[-1])}
    assert {*get_args(State), "blocked"} <= states
    reasons = OPERATIONS[OPERATIONS.index("`reason` of a decision") :].partition("\n\n")[0]
    unmade = {"no_subject", "invalid_data", traffic.NO_USAGE, traffic.MISSING_VALUE}
    assert {*REASONS, *get_args(DropReason), "no_user", *unmade} <= set(code(reasons))


MIB = 1 << 20
DELIVERY = {name: each.default for name, each in inspect.signature(Delivery).parameters.items()}
RUN = Settings(project="")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (delivery._DISK_BYTES >> 30, "| spool of one destination | {} GiB |"),
        (delivery._MEMORY_BYTES // MIB, "| `memory` queue | {} MiB |"),
        (DELIVERY["segment_bytes"] // MIB, "closed at {} MiB"),
        (round(DELIVERY["segment_seconds"] / 60), "or after {} minutes"),
        (round(DELIVERY["keep_sent_seconds"] / 3600), "| `sent/` | {} hours"),
        (DELIVERY["keep_sent_bytes"] // MIB, "hours and {} MiB |"),
        (DELIVERY["body_bytes"] // MIB, "events (500), {} MiB |"),
        (DeliveryOptions().batch_size, "`batchSize` events ({})"),
        (DeliveryOptions().max_delay_ms, "`maxDelayMs` ({})"),
        (backoff.MOST_BLOCKED, "alone; a warning in the log. {} subjects in a row"),
        (f"{checks.MOST_SUBJECTS:,}", "| known subjects | {} a worker"),
        (f"{snapshot.MOST_VALUES:,}", "| values of their features | {} a worker"),
        (f"{checks.MOST_IN_FLIGHT:,}", "under way | {} a worker"),
        (EntitlementCheck().ttl_seconds, "`ttlSeconds` ({:g})"),
        (EntitlementCheck().max_stale_seconds, "`maxStaleSeconds` ({:g})"),
        (EntitlementCheck().timeout_seconds, "`timeoutSeconds` ({:g})"),
        (response.BACKOFF_BASE, "again, after {:g} s, then"),
        (response.BACKOFF_CAP, "each time up to {:g} s"),
        (response.LONGEST_RETRY_AFTER / 60, "at most {:g} minutes later"),
        (response.SLOW_BASE, "again after {:g} s up to 60 s"),
        (response.SLOW_CAP, "again after 10 s up to {:g} s"),
        (response.REFUSED_IN_A_ROW, "more than {} refused in a row"),
        (response.REFUSING_CAP, "each further one waits, up to {:g} s"),
        (backoff.FIRST_DELAY_REFUSED, "tried again after {:g} s up to"),
        (LATE_SECONDS / 60, "older than\n{:g} minutes"),
        (denials.PERIOD_SECONDS, "reason and route once in {:g} s"),
        (RUN.upstream_timeout, "`--upstream-timeout` ({:g} s)"),
        (RUN.max_body_bytes // MIB, "`--max-body` ({} MiB)"),
        (Upstream().connect_timeout, "A connection may take {:g} s"),
    ],
)
def test_a_number_is_the_one_of_the_code(value, text):
    assert text.format(value) in OPERATIONS


def test_the_parts_of_a_stop_fit_into_the_time_that_is_said():
    parts = ending.GRACE_SECONDS + ending.BACKGROUND_SECONDS + ending.DRAIN_SECONDS
    assert parts < ending.KILL_SECONDS < 5
    assert "over within 5 seconds" in OPERATIONS
