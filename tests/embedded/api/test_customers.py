"""Customers over the API: what they are, whose usage is whose, and which cannot coexist."""

import asyncio

import pytest


def create(openmeter, **fields):
    return openmeter("POST", "/api/v1/customers", {"name": "Acme"} | fields)


def attributed(*subjects):
    return {"usageAttribution": {"subjectKeys": list(subjects)}}


def names(answer):
    return [each["name"] for each in answer.json["items"]]


def test_a_customer_is_created_and_found_by_id_and_by_key(openmeter):
    given = {
        "name": "Acme Inc.",
        "key": "acme",
        "description": "A customer",
        "usageAttribution": {"subjectKeys": ["s2", "s1"]},
        "primaryEmail": "a@acme.example",
        "currency": "USD",
        "billingAddress": {"country": "US", "city": "Springfield", "postalCode": "1"},
        "metadata": {"tier": "gold"},
    }
    answer = openmeter("POST", "/api/v1/customers", given)
    assert answer.status == 201
    customer = answer.json
    assert {name: customer[name] for name in given} == given
    assert customer["createdAt"] == "2026-03-15T12:00:00Z"
    for name in (customer["id"], "acme"):
        assert openmeter("GET", f"/api/v1/customers/{name}").json == customer
    assert openmeter("GET", "/api/v1/customers/s1").status == 404


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({}, "validation error: either key or usageAttribution.subjectKeys must be provided"),
        (attributed(), "validation error: either key or usageAttribution.subjectKeys must be provided"),
        ({"key": "a", "currency": "dollars"}, "currency"),
        ({"key": "a", "billingAddress": {"country": "USA"}}, "country"),
        ({"key": "", **attributed("x")}, "$.key"),
        ({"key": None, **attributed("x")}, "$.key"),
        ({"key": "a", "name": ""}, "$.name"),
        ({"key": "a" * 257}, "$.key"),
        (attributed(""), "$.usageAttribution.subjectKeys"),
    ],
)
def test_what_cannot_be_a_customer_is_refused(openmeter, fields, detail):
    answer = create(openmeter, **fields)
    assert answer.status == 400
    assert detail in answer.detail


def test_no_two_customers_share_a_key_or_a_subject(openmeter):
    first = create(openmeter, key="acme", **attributed("s1")).json
    conflicts = [
        {"key": "acme"},
        {"key": first["id"]},
        {"key": "s1"},
        attributed("s1"),
        attributed("new", "s1"),
        attributed("acme"),
    ]
    for fields in conflicts:
        answer = create(openmeter, **fields)
        assert answer.status == 409, fields
        assert answer.detail.startswith("conflict error: ")
    assert openmeter("GET", "/api/v1/subjects/new").status == 404


def test_a_replaced_customer_has_what_was_given_and_nothing_else(openmeter, clock):
    old = create(openmeter, key="acme", currency="USD", **attributed("s1", "s2")).json
    clock.move(hours=1)
    answer = openmeter(
        "PUT", "/api/v1/customers/acme", {"name": "New", "key": "acme2", **attributed("s2", "s3")}
    )
    assert answer.status == 200
    assert answer.json == {
        "id": old["id"],
        "key": "acme2",
        "name": "New",
        "createdAt": old["createdAt"],
        "updatedAt": "2026-03-15T13:00:00Z",
        "usageAttribution": {"subjectKeys": ["s2", "s3"]},
    }
    assert openmeter("GET", "/api/v1/customers/acme").status == 404
    assert create(openmeter, key="acme", **attributed("s1")).status == 201
    assert openmeter("PUT", "/api/v1/customers/acme2", {"name": "New", **attributed("s1")}).status == 409
    assert openmeter("PUT", "/api/v1/customers/nobody", {"name": "New", "key": "x"}).status == 404


def test_a_deleted_customer_frees_its_names_and_is_still_shown(openmeter, clock):
    old = create(openmeter, key="acme", **attributed("s1")).json
    clock.move(hours=1)
    assert openmeter("DELETE", "/api/v1/customers/acme").status == 204
    assert openmeter("GET", f"/api/v1/customers/{old['id']}").json["deletedAt"] == "2026-03-15T13:00:00Z"
    for method, body in (("PUT", {"name": "x", "key": "y"}), ("DELETE", None)):
        assert openmeter(method, "/api/v1/customers/acme", body).status == 412
    for path in ("access", "entitlements/sso/value"):
        assert openmeter("GET", f"/api/v1/customers/{old['id']}/{path}").status == 412
    new = create(openmeter, key="acme", **attributed("s1")).json
    assert openmeter("GET", "/api/v1/customers/acme").json["id"] == new["id"]
    openmeter.restart()
    assert openmeter("GET", "/api/v1/customers/acme").json["id"] == new["id"]
    assert openmeter("GET", "/api/v1/customers/acme/access").status == 200


def test_the_list_has_pages_filters_and_orders(openmeter, clock):
    for number, name in enumerate(["Beta", "alpha", "Gamma"]):
        clock.move(minutes=1)
        email = {"primaryEmail": f"{name}@x.example"}
        create(openmeter, name=name, key=f"Key{number}", **attributed(f"sub-{number}"), **email)
    openmeter("DELETE", "/api/v1/customers/Key2")
    everybody = openmeter("GET", "/api/v1/customers")
    assert {**everybody.json, "items": None} == {"totalCount": 2, "page": 1, "pageSize": 100, "items": None}
    assert names(everybody) == ["Beta", "alpha"]
    assert names(openmeter("GET", "/api/v1/customers?includeDeleted=true&orderBy=createdAt&order=DESC")) == [
        "Gamma",
        "alpha",
        "Beta",
    ]
    assert names(openmeter("GET", "/api/v1/customers?page=2&pageSize=1")) == ["alpha"]
    for query in ("key=key1", "name=ALPH", "primaryEmail=alpha%40", "subject=SUB-1"):
        assert names(openmeter("GET", f"/api/v1/customers?{query}")) == ["alpha"], query
    assert names(openmeter("GET", "/api/v1/customers?planKey=pro")) == []
    for wrong in ("page=0", "orderBy=color", "expand=everything"):
        assert openmeter("GET", f"/api/v1/customers?{wrong}").status == 400


def test_of_many_who_want_the_same_subject_at_once_one_gets_it(openmeter):
    async def race():
        bodies = [{"name": f"c{number}", **attributed("s1", f"own-{number}")} for number in range(8)]
        return await asyncio.gather(
            *(openmeter.request("POST", "/api/v1/customers", body) for body in bodies)
        )

    statuses = sorted(answer.status for answer in openmeter.runner.run(race()))
    assert statuses == [201] + [409] * 7
    assert openmeter("GET", "/api/v1/customers").json["totalCount"] == 1
    assert len(openmeter("GET", "/api/v1/subjects").json) == 2
