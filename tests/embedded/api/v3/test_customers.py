"""Customers in version 3: other names, ids only, a key that stays."""

import pytest

CUSTOMERS = "/api/v3/openmeter/customers"
ACME = {
    "key": "acme",
    "name": "Acme",
    "description": "Makers of everything",
    "labels": {"tier": "gold"},
    "usage_attribution": {"subject_keys": ["acme-eu", "acme-us"]},
    "primary_email": "billing@acme.example",
    "currency": "EUR",
    "billing_address": {"country": "DE", "postal_code": "10115", "city": "Berlin"},
}
NAMELESS = {"name": "Nameless", "usageAttribution": {"subjectKeys": ["nameless"]}}


@pytest.fixture
def create(openmeter):
    def create(**fields):
        return openmeter("POST", CUSTOMERS, fields)

    return create


@pytest.fixture
def acme(create):
    answer = create(**ACME)
    assert answer.status == 201, answer.body
    return answer.json


@pytest.fixture
def names(openmeter):
    """Lists customers and answers their names."""

    def names(query=""):
        answer = openmeter("GET", f"{CUSTOMERS}?{query}")
        assert answer.status == 200, answer.body
        return [customer["name"] for customer in answer.json["data"]]

    return names


def test_a_customer_is_shown_with_all_that_was_given(openmeter, acme):
    created = "2026-03-15T12:00:00Z"
    assert acme == ACME | {"id": acme["id"], "created_at": created, "updated_at": created}
    assert openmeter("GET", f"{CUSTOMERS}/{acme['id']}").json == acme


def test_both_versions_have_the_same_customers(openmeter, acme):
    older = openmeter("GET", "/api/v1/customers/acme").json
    assert older["id"] == acme["id"]
    assert older["usageAttribution"] == {"subjectKeys": ["acme-eu", "acme-us"]}
    assert older["billingAddress"]["postalCode"] == "10115"
    assert older["metadata"] == {"tier": "gold"}


def test_a_replacement_keeps_the_key_and_drops_what_is_not_said(openmeter, clock, acme):
    clock.move(minutes=1)
    one = f"{CUSTOMERS}/{acme['id']}"
    answer = openmeter("PUT", one, {"name": "Acme SE", "usage_attribution": {"subject_keys": ["acme-eu"]}})
    assert (answer.status, answer.json) == (
        200,
        {
            "id": acme["id"],
            "key": "acme",
            "name": "Acme SE",
            "usage_attribution": {"subject_keys": ["acme-eu"]},
            "created_at": "2026-03-15T12:00:00Z",
            "updated_at": "2026-03-15T12:01:00Z",
        },
    )
    assert openmeter("PUT", one, {"name": "Acme", "key": "other"}).status == 400


def test_a_deleted_customer_is_still_found_but_not_listed(openmeter, names, acme):
    one = f"{CUSTOMERS}/{acme['id']}"
    assert openmeter("DELETE", one).status == 204
    assert openmeter("GET", one).json["deleted_at"] == "2026-03-15T12:00:00Z"
    assert names() == []
    assert openmeter("PUT", one, {"name": "Acme"}).status == 412


def test_a_customer_of_version_1_without_a_key_is_shown_with_an_empty_one(openmeter):
    made = openmeter("POST", "/api/v1/customers", NAMELESS).json
    assert openmeter("GET", f"{CUSTOMERS}/{made['id']}").json["key"] == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "No key"},
        {"key": "acme"},
        {"key": "acme", "name": ""},
        {"key": "acme", "name": "Acme", "labels": {"a": 1}},
        {"key": "acme", "name": "Acme", "usage_attribution": {"subject_keys": [""]}},
        {"key": "acme", "name": "Acme", "billing_address": {"street": "Main"}},
        {"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": []}},
        {"key": "acme", "name": "Acme", "currency": "euro"},
    ],
)
def test_what_is_no_customer_is_refused(create, fields):
    answer = create(**fields)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")


def test_keys_and_subjects_are_taken_once(create, acme):
    assert create(key="acme", name="Another").status == 409
    assert create(key="other", name="Other", usage_attribution={"subject_keys": ["acme-eu"]}).status == 409


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_path_takes_only_ids(openmeter, acme, method):
    answer = openmeter(method, f"{CUSTOMERS}/acme", {"name": "Acme"} if method == "PUT" else None)
    assert answer.status == 400
    assert answer.json["invalid_parameters"][0]["field"] == "customerId"
    assert openmeter(method, f"{CUSTOMERS}/01G65Z755AFWAKHE12NY0CQ9FH", {"name": "Acme"}).status == 404


def test_customers_are_listed_in_pages(openmeter, create, names):
    for name in "cab":
        create(key=name, name=name)
    answer = openmeter("GET", f"{CUSTOMERS}?page[size]=2&page[number]=2").json
    assert [customer["name"] for customer in answer["data"]] == ["c"]
    assert answer["meta"] == {"page": {"size": 2, "number": 2, "total": 3}}
    assert names("page[number]=3&page[size]=2") == []
    assert names("sort=name desc") == ["c", "b", "a"]
    assert names("sort=created_at") == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("filter[key]=a", ["Anna"]),
        ("filter[key][neq]=a", ["Bert"]),
        ("filter[name][contains]=ER", ["Bert"]),
        ("filter[primary_email][eq]=a@example.org", ["Anna"]),
        ("filter[primary_email][exists]", ["Anna"]),
        ("filter[name][contains]=n&filter[key]=b", []),
    ],
)
def test_customers_are_filtered(create, names, query, found):
    create(key="a", name="Anna", primary_email="a@example.org")
    create(key="b", name="Bert")
    assert names(query) == found


@pytest.mark.parametrize(
    "query", ["filter[currency]=EUR", "sort=currency", "page[size]=0", "filter[name][like]=a", "filter[]=a"]
)
def test_parameters_that_do_not_exist_are_named(openmeter, query):
    answer = openmeter("GET", f"{CUSTOMERS}?{query}")
    assert answer.status == 400
    assert answer.json["invalid_parameters"][0]["field"].split("[")[0] in ("filter", "sort", "page")
