"""Subjects over the API."""

from urllib.parse import quote

import pytest


def upsert(openmeter, *subjects):
    return openmeter("POST", "/api/v1/subjects", list(subjects))


def test_subjects_are_made_changed_and_cleared_field_by_field(openmeter, clock):
    (made,) = upsert(openmeter, {"key": "acme", "displayName": "Acme", "metadata": {"tier": 1}}).json
    assert made["displayName"] == "Acme"
    clock.move(hours=1)
    (changed,) = upsert(openmeter, {"key": "acme", "displayName": None, "stripeCustomerId": "cus_1"}).json
    assert "displayName" not in changed
    assert changed["metadata"] == {"tier": 1}
    assert changed["stripeCustomerId"] == "cus_1"
    assert (changed["id"], changed["createdAt"]) == (made["id"], made["createdAt"])
    assert changed["updatedAt"] == "2026-03-15T13:00:00Z"
    assert openmeter("GET", "/api/v1/subjects").json == [changed]


def test_a_subject_named_twice_in_one_request_is_one_subject(openmeter):
    answer = upsert(openmeter, {"key": "a", "displayName": "A"}, {"key": "a", "metadata": {"x": 1}})
    assert answer.status == 200
    assert len(openmeter("GET", "/api/v1/subjects").json) == 1
    assert openmeter("GET", "/api/v1/subjects/a").json["displayName"] == "A"


@pytest.mark.parametrize("key", ["o'neil & sons", "a/b", "ünï", "100%", "../x"])
def test_a_subject_may_have_any_name(openmeter, key):
    upsert(openmeter, {"key": key})
    path = f"/api/v1/subjects/{quote(key, safe='')}"
    assert openmeter("GET", path).json["key"] == key
    assert openmeter("DELETE", path).status == 204
    assert openmeter("GET", path).status == 404


def test_a_subject_is_found_and_deleted_by_id_too(openmeter):
    (made,) = upsert(openmeter, {"key": "acme"}).json
    assert openmeter("GET", f"/api/v1/subjects/{made['id']}").json == made
    assert openmeter("DELETE", f"/api/v1/subjects/{made['id']}").status == 204
    assert openmeter("GET", "/api/v1/subjects").json == []


def test_a_customers_subjects_are_made_with_it_and_kept_while_it_has_them(openmeter):
    customer = {"name": "Acme", "usageAttribution": {"subjectKeys": ["s1"]}}
    assert openmeter("POST", "/api/v1/customers", customer).status == 201
    assert openmeter("GET", "/api/v1/subjects/s1").status == 200
    assert openmeter("DELETE", "/api/v1/subjects/s1").status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"key": "a"},
        [{"displayName": "A"}],
        [{"key": ""}],
        "acme",
        [7],
        [{"key": "a", "currentPeriodEnd": ""}],
    ],
)
def test_what_are_no_subjects_is_refused(openmeter, body):
    assert openmeter("POST", "/api/v1/subjects", body).status == 400


def test_subjects_are_still_there_after_a_restart(openmeter):
    (made,) = upsert(openmeter, {"key": "acme", "metadata": {"deep": [1, {"x": None}]}}).json
    openmeter.restart()
    assert openmeter("GET", "/api/v1/subjects").json == [made]
