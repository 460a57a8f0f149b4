"""``/api/v1/subjects``"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import present, segment
from metergate.embedded.api.requests import json_body, json_response
from metergate.embedded.domain.customers import Subject, SubjectInput
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services

_read = msgspec.json.Decoder(list[SubjectInput]).decode


def routes(services: Services) -> list[Route]:
    """List, upsert, show and delete subjects."""
    store, clock = services.catalog.customers, services.clock

    async def list_subjects(request: Request) -> Response:
        return json_response([subject_view(subject) for subject in store.all_subjects()])

    async def upsert_subjects(request: Request) -> Response:
        given = await json_body(request, _read)
        return json_response(
            [subject_view(subject) for subject in await store.upsert_subjects(given, clock())]
        )

    async def get_subject(request: Request) -> Response:
        return json_response(subject_view(store.find_subject(segment(request, "subject"))))

    async def delete_subject(request: Request) -> Response:
        await store.delete_subject(segment(request, "subject"))
        return Response(status_code=204)

    return [
        Route("/api/v1/subjects", list_subjects, methods=["GET"]),
        Route("/api/v1/subjects", upsert_subjects, methods=["POST"]),
        Route("/api/v1/subjects/{subject}", get_subject, methods=["GET"]),
        Route("/api/v1/subjects/{subject}", delete_subject, methods=["DELETE"]),
    ]


def subject_view(subject: Subject) -> dict[str, Any]:
    """The subject as the API shows it."""
    return present(
        id=subject.id,
        key=subject.key,
        createdAt=format_rfc3339(subject.created_at),
        updatedAt=format_rfc3339(subject.updated_at),
        displayName=subject.display_name,
        metadata=subject.metadata,
        stripeCustomerId=subject.stripe_customer_id,
    )
