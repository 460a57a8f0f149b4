"""What Prometheus is told, by one worker and by several, some of them dead."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from metergate.delivery import DeliveryStatistics
from metergate.engine import Backends, BackendsStatistics
from metergate.entitlements import EntitlementStatistics
from metergate.gateway import health
from metergate.gateway.http import Headers, Request
from metergate.gateway.metrics import Metrics
from metergate.gateway.metrics.counting import NUMBERS, ROW_LIMIT, RequestCounts
from metergate.gateway.metrics.folder import Figures, FiguresFolder
from metergate.gateway.metrics.ledger import Ledger, read_ledger
from metergate.gateway.metrics.samples import HELP, LABEL_LIMIT, Sample, add_up, read_statistics
from metergate.gateway.policies.apikey import ConsumerStatistics
from metergate.gateway.policies.jwks import JwksStatistics
from metergate.gateway.policies.jwt import JwtStatistics

BACKENDS = BackendsStatistics(
    decisions={"granted": 7, "exhausted": 2},
    dropped={"no_subject": 1},
    not_read={"encoding": 5},
    deliveries={
        "openmeter.cloud": DeliveryStatistics(
            recorded=9,
            delivered=8,
            pending_events=1,
            oldest_pending_seconds=2.5,
            dead_letters=3,
            dropped={"disk_full": 4},
        )
    },
    entitlements={
        "openmeter.cloud": EntitlementStatistics({"granted": 7}, 5, 4, {"outage": 1}, 0, 1, 0, 12, 0, False)
    },
)


def page(metrics, accept=""):
    response = metrics.page(Request("GET", "/", headers=Headers({"accept": accept} if accept else {})), None)
    assert response.status == 200
    return response.body.decode()


def values(text):
    """Every sample of a page by name and labels; the parser of the client library reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return values(page(metrics)).get((name, tuple(sorted(labels.items()))))


def test_requests_are_counted_by_route_method_and_class_of_status():
    metrics = Metrics()
    for status in (200, 204, 403, 500):
        metrics.observe("GET /users/{id}", "GET", status, 0.004)
    metrics.observe("", "POST", 404, 0.001)
    assert value(metrics, "metergate_requests_total", route="/users/{id}", method="GET", status="2xx") == 2
    assert value(metrics, "metergate_requests_total", route="/users/{id}", method="GET", status="5xx") == 1
    assert value(metrics, "metergate_requests_total", route="", method="POST", status="4xx") == 1


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (99.0, "+Inf")]
)
def test_a_time_falls_into_the_first_bucket_that_holds_it(seconds, bound):
    metrics = Metrics()
    metrics.observe("GET /a", "GET", 200, seconds)
    buckets = {
        dict(labels)["le"]: count
        for (name, labels), count in values(page(metrics)).items()
        if name == "metergate_request_seconds_bucket"
    }
    below = [le for le, count in buckets.items() if count == 0]
    assert buckets["+Inf"] == buckets[bound] == 1
    assert all(float(le) < seconds for le in below)
    assert value(metrics, "metergate_request_seconds_sum", route="/a", method="GET") == seconds


def test_names_that_a_client_chooses_cannot_become_rows():
    ledger = Ledger(NUMBERS)
    counts = RequestCounts(ledger)
    for number in range(50):
        counts.observe("", f"X{number}", 404, 0.1)
    samples, histograms = ledger.read()
    assert [(dict(one.labels)["method"], one.value) for one in samples] == [("other", 50)]
    assert len(histograms) == 1


def test_routes_past_the_bound_are_counted_together_and_said():
    ledger = Ledger(NUMBERS)
    counts = RequestCounts(ledger, limit=2)
    for number in range(5):
        counts.observe(f"GET /{number}", "GET", 200, 0.1)
    samples, _ = ledger.read()
    by_route = {dict(one.labels).get("route"): one.value for one in samples}
    assert by_route == {"/0": 1, "/1": 1, "other": 3, None: 3}
    assert ROW_LIMIT >= 1000


def test_the_statistics_of_the_rooms_become_metrics_with_reason_and_destination():
    metrics = Metrics()
    metrics.add(lambda: BACKENDS)
    found = values(page(metrics))
    host = ("destination", "openmeter.cloud")
    assert found["metergate_decisions_total", (("reason", "exhausted"),)] == 2
    assert found["metergate_events_recorded_total", (host,)] == 9
    assert found["metergate_events_delivered_total", (host,)] == 8
    assert found["metergate_events_pending", (host,)] == 1
    assert found["metergate_oldest_pending_event_seconds", (host,)] == 2.5
    assert found["metergate_dead_letters", (host,)] == 3
    assert found["metergate_events_dropped_total", (host, ("reason", "disk_full"))] == 4
    assert found["metergate_events_dropped_total", (("destination", ""), ("reason", "no_subject"))] == 1
    assert found["metergate_delivery_state", (host, ("state", "ok"))] == 1
    assert found["metergate_entitlement_reads_total", (host,)] == 5
    assert found["metergate_entitlement_snapshots", (host,)] == 12
    assert found["metergate_entitlement_failures_total", (host, ("reason", "outage"))] == 1
    assert found["metergate_workers", ()] == 1


@pytest.mark.parametrize(
    "statistics",
    [BACKENDS, ConsumerStatistics(1, 0, 0), JwtStatistics(1, 1, 0, 0, JwksStatistics(1, 1, 0, 2.0))],
    ids=lambda one: type(one).__name__,
)
def test_every_figure_of_a_room_is_described(statistics):
    assert {one.name for one in read_statistics(statistics)} - set(HELP) == set()


@dataclass(frozen=True)
class CacheStatistics:
    size: int
    by_host: Mapping[str, int]
    name: str = "x"
    nothing: int | None = None


def test_statistics_that_nobody_described_appear_under_a_name_of_their_own():
    samples = read_statistics(CacheStatistics(3, {"a": 1}), {"policy": "mine"})
    assert samples == [
        Sample("metergate_cache_size", (("policy", "mine"),), 3, "gauge"),
        Sample("metergate_cache_by_host", (("policy", "mine"), ("reason", "a")), 1, "gauge"),
    ]


def test_a_label_has_a_bounded_number_of_values():
    samples = read_statistics(CacheStatistics(0, {str(number): 1 for number in range(LABEL_LIMIT + 5)}))
    reasons = {dict(one.labels).get("reason"): one.value for one in samples}
    assert len(reasons) == LABEL_LIMIT + 2
    assert reasons["other"] == 5


def test_who_asks_for_openmetrics_gets_it():
    text = page(Metrics(), "application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


# --- several workers


def member(directory, count=1):
    metrics = Metrics(directory)
    metrics.observe("GET /a", "GET", 200, 0.01)
    for _ in range(count - 1):
        metrics.observe("GET /a", "GET", 200, 0.01)
    return metrics


def requests(metrics):
    return value(metrics, "metergate_requests_total", route="/a", method="GET", status="2xx")


def test_the_page_of_one_worker_shows_the_sum_of_all(tmp_path):
    async def run():
        one, other = member(tmp_path, 2), member(tmp_path, 3)
        await one.start()
        await other.start()
        assert requests(one) == requests(other) == 5
        assert value(one, "metergate_workers") == 2
        assert value(one, "metergate_request_seconds_count", route="/a", method="GET") == 5
        await one.stop()
        await other.stop()

    asyncio.run(run())


def test_a_worker_that_stops_keeps_its_counters_and_loses_its_gauges(tmp_path):
    async def run():
        one, other = member(tmp_path, 2), member(tmp_path, 3)
        await one.start()
        await other.start()
        await other.stop()
        assert requests(one) == 5
        assert value(one, "metergate_workers") == 1
        third = member(tmp_path, 1)
        await third.start()
        assert requests(third) == requests(one) == 6
        await one.stop()
        await third.stop()

    asyncio.run(run())
    assert [one.name for one in tmp_path.glob("*.json")] != []


def test_no_page_of_any_worker_shows_less_than_an_earlier_one(tmp_path):
    async def run():
        workers = [member(tmp_path) for _ in range(3)]
        for worker in workers:
            await worker.start()
        seen = 0
        for turn in range(12):
            workers[turn % 3].observe("GET /a", "GET", 200, 0.01)
            now = requests(workers[turn % 3])
            assert now > seen
            assert requests(workers[(turn + 1) % 3]) >= now
            seen = now
        for worker in workers:
            await worker.stop()

    asyncio.run(run())


KILLED = """
import asyncio, sys
from pathlib import Path
from metergate.gateway.metrics import Metrics
async def main():
    metrics = Metrics(Path(sys.argv[1]), publish_seconds=3600)
    metrics.observe("GET /a", "GET", 200, 0.01)
    await metrics.start()
    counts = metrics.delivery_counts("openmeter.cloud")
    for number in range(6):
        metrics.observe("GET /a", "GET", 200, 0.01)
        counts[0] += 1
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_a_worker_that_is_killed_keeps_all_it_counted_and_its_files_are_cleared_away(tmp_path):
    worker = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    with worker:
        assert worker.stdout.readline() == b"ready\n"

        async def run():
            one = member(tmp_path, 1)
            await one.start()
            assert (requests(one), value(one, "metergate_workers")) == (8, 2)
            worker.kill()
            worker.wait()
            assert (requests(one), value(one, "metergate_workers")) == (8, 1)
            assert requests(one) == 8
            assert value(one, "metergate_events_recorded_total", destination="openmeter.cloud") == 6
            assert value(one, "metergate_request_seconds_sum", route="/a", method="GET") == pytest.approx(
                0.08
            )
            await one.stop()

        asyncio.run(run())
    assert len(list(tmp_path.glob("*.lock"))) == 2  # this worker's and the folder's
    assert len(list(tmp_path.glob("*.numbers"))) == len(list(tmp_path.glob("*.places"))) == 1
    assert os.listdir(tmp_path).count("retired.json") == 1  # noqa: PTH208


def test_a_crash_while_the_dead_are_put_together_counts_nobody_twice(tmp_path):
    dead = FiguresFolder(tmp_path)
    dead.join()
    dead.publish(Figures([Sample("c", (), 5, "counter")]))
    dead.leave()
    left = {one.name: one.read_bytes() for one in tmp_path.iterdir() if one.name != "folder.lock"}
    reader = FiguresFolder(tmp_path)
    assert reader.collect().samples == [Sample("c", (), 5, "counter")]
    # As if the machine had stopped after retired.json was written and before the dead worker's files were removed.
    for name, data in left.items():
        (tmp_path / name).write_bytes(data)
    retired = json.loads((tmp_path / "retired.json").read_text())
    (token,) = (name.removesuffix(".json") for name in left if name.endswith(".json"))
    (tmp_path / "retired.json").write_text(json.dumps({**retired, "contains": [token]}))
    assert reader.collect().samples == [Sample("c", (), 5, "counter")]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder.lock", "retired.json"]


def test_a_file_that_cannot_be_read_is_logged_and_the_others_count(tmp_path, caplog):
    broken, sound = FiguresFolder(tmp_path), FiguresFolder(tmp_path)
    for folder in (broken, sound):
        folder.join()
        folder.publish(Figures([Sample("c", (), 1, "counter")]))
    (tmp_path / f"{broken._name}.json").write_text("{")
    assert sound.collect().samples == [Sample("c", (), 1, "counter")]
    assert "cannot be read" in caplog.text
    broken.leave()
    sound.leave()


def test_counters_of_a_worker_that_cannot_be_read_are_logged_and_the_others_count(tmp_path, caplog):
    async def run():
        one, other = member(tmp_path, 2), member(tmp_path, 3)
        await one.start()
        await other.start()
        (tmp_path / f"{other._folder._name}.places").write_text("{\n")
        assert requests(one) == 2
        await one.stop()
        await other.stop()

    asyncio.run(run())
    assert "the counters of a worker cannot be read" in caplog.text


def test_half_a_line_in_the_list_of_counters_is_passed_over(tmp_path):
    ledger = Ledger(10)
    ledger.open(tmp_path / "numbers", tmp_path / "places")
    ledger.values[ledger.counter("a")] += 2
    ledger.close()
    with (tmp_path / "places").open("ab") as file:
        file.write(b'["b",[],')
    assert read_ledger(tmp_path / "numbers", tmp_path / "places") == ([Sample("a", (), 2, "counter")], [])


def test_a_full_ledger_refuses_instead_of_counting_in_another_ones_place():
    ledger = Ledger(4)
    assert [ledger.counter("a"), ledger.counter("b")] == [1, 2]
    with pytest.raises(IndexError, match="full"):
        ledger.histogram("c", (), 1)
    assert ledger.counter("d") == 3


def test_a_folder_that_cannot_be_used_leaves_the_figures_in_the_worker(tmp_path, caplog):
    (tmp_path / "file").write_text("")

    async def run():
        one = member(tmp_path / "file" / "run", 4)
        await one.start()
        assert requests(one) == 4
        await one.stop()

    asyncio.run(run())
    assert "figures stay in this worker" in caplog.text


def test_figures_are_published_by_themselves(tmp_path):
    async def run():
        one = Metrics(tmp_path, publish_seconds=0.001)
        await one.start()
        one.observe("GET /a", "GET", 200, 0.01)
        reader = FiguresFolder(tmp_path)
        deadline = time.monotonic() + 10
        while not any(sample.name == "metergate_requests" for sample in reader.collect().samples):
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        await one.stop()

    asyncio.run(run())


SAMPLES = st.builds(
    Sample, st.sampled_from("ab"), st.just(()), st.integers(0, 9), st.just("counter")
) | st.builds(Sample, st.just("h"), st.just(()), st.integers(0, 9), st.just("highest"))


@given(st.lists(SAMPLES), st.randoms())
def test_the_sum_does_not_depend_on_the_order_or_on_how_it_is_grouped(samples, random):
    once = {(one.name, one.value) for one in add_up(samples)}
    shuffled = samples[:]
    random.shuffle(shuffled)
    half = len(samples) // 2
    assert {(one.name, one.value) for one in add_up([*add_up(shuffled[:half]), *shuffled[half:]])} == once


# --- health


def examined(statistics):
    return health.examine(
        Figures([Sample("metergate_workers", (), 2, "gauge"), *read_statistics(statistics)]), 61.9
    )


def with_delivery(**changes):
    return BackendsStatistics({}, {}, {"om.example.com": DeliveryStatistics(**changes)}, {})


def test_health_is_ok_with_the_state_of_every_destination():
    found = examined(with_delivery(delivered=8, pending_events=1))
    assert (found.status, found.problems, found.uptime_seconds, found.workers) == ("ok", [], 61, 2)
    assert found.delivery["om.example.com"] == health.DeliveryHealth("ok", 1, 0.0, 8, 0, {})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"state": "unauthorized", "pending_events": 3},
            "om.example.com: delivery is unauthorized, 3 events wait",
        ),
        ({"oldest_pending_seconds": 301.0}, "om.example.com: the oldest event waits for 301 s"),
        ({"dead_letters": 2}, "om.example.com: 2 events are in the dead letters"),
    ],
)
def test_health_is_degraded_and_says_why(changes, problem):
    found = examined(with_delivery(**changes))
    assert (found.status, found.problems) == ("degraded", [problem])


def test_health_is_degraded_while_entitlements_cannot_be_read():
    failing = EntitlementStatistics({}, 1, 0, {"outage": 1}, 0, 0, 0, 4, 0, True)
    found = examined(BackendsStatistics({}, {}, {}, {"om.example.com": failing}))
    assert found.entitlements == {"om.example.com": health.EntitlementHealth("failing", 4)}
    assert found.problems == ["om.example.com: entitlements cannot be read"]


def test_the_worst_state_of_several_workers_counts():
    samples = [*read_statistics(with_delivery()), *read_statistics(with_delivery(state="retrying"))]
    assert health.examine(Figures(add_up(samples)), 0).delivery["om.example.com"].state == "retrying"


def test_the_health_page_is_json_for_an_orchestrator_and_always_200():
    metrics = Metrics()
    metrics.add(Backends(None).statistics)
    metrics.add(lambda: with_delivery(state="blocked"))
    clock = iter([100.0, 107.5])
    response = health.page(metrics, now=lambda: next(clock))(Request("GET", "/"), None)
    body = json.loads(response.body)
    assert response.status == 200
    assert list(body) == [
        "status",
        "version",
        "uptimeSeconds",
        "workers",
        "delivery",
        "entitlements",
        "problems",
    ]
    assert (body["status"], body["uptimeSeconds"], body["workers"]) == ("degraded", 7, 1)
    assert body["delivery"]["om.example.com"]["oldestPendingSeconds"] == 0.0


def test_the_uptime_is_that_of_the_gateway_and_not_of_the_worker_that_answers():
    answers = [
        health.page(Metrics(), began=100.0, now=lambda: 190.0)(Request("GET", "/"), None) for _ in "ab"
    ]
    assert [json.loads(answer.body)["uptimeSeconds"] for answer in answers] == [90, 90]


def test_what_is_true_or_false_reaches_the_other_workers_as_a_number(tmp_path: Path) -> None:
    async def shown() -> Figures:
        metrics = Metrics(tmp_path)
        metrics.add(lambda: BACKENDS)
        await metrics.start()
        try:
            return metrics.everybody()
        finally:
            await metrics.stop()

    failing = [
        each.value for each in asyncio.run(shown()).samples if each.name == "metergate_entitlement_failing"
    ]
    assert failing == [0.0]
