"""Customers and subjects, and whose usage a subject's is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from metergate.embedded.api.problems import Conflict, Invalid, NotFound, PreconditionFailed
from metergate.embedded.domain.customers import (
    Customer,
    CustomerInput,
    Subject,
    SubjectInput,
    check_customer,
    conflict,
    make_customer,
    upsert_subject,
)
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.store.changes import Changes
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.shelf import Shelf

SCHEMA = [
    "CREATE TABLE IF NOT EXISTS customers (id VARCHAR NOT NULL, number BIGINT NOT NULL, document VARCHAR NOT NULL)",
    "CREATE TABLE IF NOT EXISTS subjects (id VARCHAR NOT NULL, number BIGINT NOT NULL, document VARCHAR NOT NULL)",
]


class CustomerStore:
    """``changes`` is held while anything of the catalog changes, so that checks stay true until written."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes
        self._customers = Shelf("customers", Customer)
        self._subjects = Shelf("subjects", Subject)
        self._owners: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._subject_ids: dict[str, str] = {}
        self._customers.load(database)
        self._subjects.load(database)
        for customer in self._customers.items.values():
            self._index(customer)
        for subject in self._subjects.items.values():
            self._subject_ids[subject.key] = subject.id

    def find(self, id_or_key: str) -> Customer:
        """The customer with this id or key, a deleted one too. Raises NotFound."""
        found = self._customers.items.get(id_or_key) or self._customers.items.get(
            self._keys.get(id_or_key, "")
        )
        if found is None:
            raise NotFound(f"customer not found: {id_or_key}")
        return found

    def find_active(self, id_or_key: str) -> Customer:
        """The same. Raises PreconditionFailed for a deleted one."""
        customer = self.find(id_or_key)
        if customer.deleted_at is not None:
            raise PreconditionFailed(f"customer is deleted [customer.id={customer.id}]")
        return customer

    def of_subject(self, subject: str) -> Customer:
        """The active customer whose usage this subject's is. ``subject`` is its key or id. Raises NotFound."""
        known = self._subjects.items.get(subject)
        owner = self._owners.get(known.key if known else subject)
        if owner is None:
            raise NotFound(f"no customer found for subject: {subject}")
        return self._customers.items[owner]

    def all(self) -> list[Customer]:
        """Every customer, deleted ones too, in the order they were made."""
        return list(self._customers.items.values())

    async def create(self, given: CustomerInput, now: datetime) -> Customer:
        """A new customer and those of its subjects that are new. Raises Invalid, Conflict."""
        attributed = given.usage_attribution.subject_keys if given.usage_attribution else ()
        async with self._changes.of([*attributed, *([given.key] if given.key else [])]):
            identifier = new_id(now)
            self._check(given, identifier)
            return await self._save(make_customer(given, identifier=identifier, created_at=now, now=now), now)

    async def replace(self, id_or_key: str, given: CustomerInput, now: datetime) -> Customer:
        """The customer with everything as given; what is not given is gone. Raises as ``create``."""
        async with self._changes:
            old = self.find_active(id_or_key)
            self._check(given, old.id)
            new = make_customer(given, identifier=old.id, created_at=old.created_at, now=now)
            return await self._save(new, now)

    async def delete(self, id_or_key: str, now: datetime, in_use: Callable[[Customer], bool]) -> None:
        """Mark it as deleted: its key and subjects are free. Raises Invalid while ``in_use``."""
        async with self._changes:
            old = self.find_active(id_or_key)
            if in_use(old):
                raise Invalid("customer has entitlements, delete those before the customer")
            await self._save(msgspec.structs.replace(old, deleted_at=now, updated_at=now), now)

    async def subjects_of(self, ids: Iterable[str]) -> Mapping[str, frozenset[str]]:
        """For each known customer id: the subjects (customer key and subject keys) attributed to it."""
        found = (self._customers.items.get(identifier) for identifier in ids)
        return {customer.id: customer.subjects for customer in found if customer is not None}

    async def customers_of(self, subjects: Iterable[str]) -> Mapping[str, str]:
        """For each subject that belongs to an active customer: the customer's id."""
        owners = ((subject, self._owners.get(subject)) for subject in subjects)
        return {subject: owner for subject, owner in owners if owner is not None}

    async def display_names_of(self, subjects: Iterable[str]) -> Mapping[str, str]:
        """For each subject that was made known: its display name, empty when it has none."""
        found = (self._subject(subject) for subject in subjects)
        return {subject.key: subject.display_name or "" for subject in found if subject is not None}

    def find_subject(self, id_or_key: str) -> Subject:
        """The subject with this id or key. Raises NotFound."""
        found = self._subjects.items.get(id_or_key) or self._subjects.items.get(
            self._subject_ids.get(id_or_key, "")
        )
        if found is None:
            raise NotFound(f"subject not found: {id_or_key}")
        return found

    def all_subjects(self) -> list[Subject]:
        """Every subject, in the order they were made."""
        return list(self._subjects.items.values())

    async def upsert_subjects(self, given: Sequence[SubjectInput], now: datetime) -> list[Subject]:
        """Each made or changed; in the order given."""
        async with self._changes:
            made: dict[str, Subject] = {}
            for each in given:
                old = made.get(each.key) or self._subject(each.key)
                made[each.key] = upsert_subject(each, old, new_id(now), now)
            await self._database.write(lambda cursor: self._put_subjects(cursor, made.values()))
            self._keep_subjects(made.values())
            return [made[each.key] for each in given]

    async def delete_subject(self, id_or_key: str) -> None:
        """Forget what was said of the subject; its events stay. Raises Invalid while it is a customer's."""
        async with self._changes:
            subject = self.find_subject(id_or_key)
            if subject.key in self._owners:
                raise Invalid(f"subject is assigned to customer {self._owners[subject.key]}")
            await self._database.write(lambda cursor: self._subjects.drop(cursor, subject.id))
            del self._subjects.items[subject.id]
            del self._subject_ids[subject.key]

    def _check(self, given: CustomerInput, own_id: str) -> None:
        if wrong := check_customer(given):
            raise Invalid(wrong)
        if reason := conflict(given, own_id, self._customers.items.__contains__, self._owners.get):
            raise Conflict(reason)

    async def _save(self, customer: Customer, now: datetime) -> Customer:
        """Write it with the subjects that are new by it, then let the indexes know."""
        subjects = [
            upsert_subject(SubjectInput(key=key), None, new_id(now), now)
            for key in customer.subject_keys
            if customer.deleted_at is None and self._subject(key) is None
        ]

        def put(cursor: Cursor) -> None:
            self._customers.put(cursor, customer)
            self._put_subjects(cursor, subjects)

        await self._database.write(put)
        if (old := self._customers.items.get(customer.id)) is not None:
            self._unindex(old)
        self._customers.keep(customer)
        self._index(customer)
        self._keep_subjects(subjects)
        return customer

    def _index(self, customer: Customer) -> None:
        """A deleted customer keeps its key as long as nobody else takes it, so that it is not just unknown."""
        if customer.key and (customer.deleted_at is None or customer.key not in self._keys):
            self._keys[customer.key] = customer.id
        if customer.deleted_at is None:
            self._owners |= dict.fromkeys(customer.subjects, customer.id)

    def _unindex(self, customer: Customer) -> None:
        for subject in customer.subjects:
            if self._owners.get(subject) == customer.id:
                del self._owners[subject]
        if customer.key and self._keys.get(customer.key) == customer.id:
            del self._keys[customer.key]

    def _subject(self, key: str) -> Subject | None:
        return self._subjects.items.get(self._subject_ids.get(key, ""))

    def _put_subjects(self, cursor: Cursor, subjects: Iterable[Subject]) -> None:
        for subject in subjects:
            self._subjects.put(cursor, subject)

    def _keep_subjects(self, subjects: Iterable[Subject]) -> None:
        for subject in subjects:
            self._subjects.keep(subject)
            self._subject_ids[subject.key] = subject.id
