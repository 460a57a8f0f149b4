"""A bare Starlette route behind one middleware each: ours, and what the package index has for the same place.

What they send goes to the address that they are given, which answers at once and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.sink import FEATURE
from metergate.middleware import Metergate, MetergateMiddleware

Application = Callable[..., Any]


async def hello(request: Any) -> PlainTextResponse:
    return PlainTextResponse("hello")


def bare(sink: str, folder: Path) -> Starlette:
    return Starlette(routes=[Route("/hello/{name}", hello)])


def metered(sink: str, folder: Path) -> Application:
    return _metergate(sink, folder)


def entitled(sink: str, folder: Path) -> Application:
    return _metergate(sink, folder, required_entitlements=[FEATURE])


def _metergate(sink: str, folder: Path, **options: Any) -> Application:
    meter = {"type": FEATURE, "data": {"count": 1}}
    gate = Metergate(spool=folder, api_url=sink, api_key="key", meter=meter, **options)
    app = bare(sink, folder)
    app.add_middleware(MetergateMiddleware, metergate=gate)
    return app


def nothing(sink: str, folder: Path) -> Application:
    async def go_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app = bare(sink, folder)
    app.add_middleware(BaseHTTPMiddleware, dispatch=go_on)
    return app


def opentelemetry(sink: str, folder: Path) -> Application:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Discarding(SpanExporter):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discarding()))
    return OpenTelemetryMiddleware(
        bare(sink, folder), tracer_provider=provider, exclude_spans=["receive", "send"]
    )


def sentry(sink: str, folder: Path) -> Application:
    return _sentry(sink, folder, None)


def sentry_tracing(sink: str, folder: Path) -> Application:
    return _sentry(sink, folder, 1.0)


def _sentry(sink: str, folder: Path, rate: float | None) -> Application:
    import sentry_sdk
    from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

    dsn = sink.replace("://", "://key@") + "/1"
    sentry_sdk.init(dsn, traces_sample_rate=rate, auto_enabling_integrations=False)
    return SentryAsgiMiddleware(bare(sink, folder))


def apitally(sink: str, folder: Path) -> Application:
    from apitally.starlette import init

    app = bare(sink, folder)
    init(app, write_token="apt_" + "a" * 24, env="bench", otlp_endpoint=sink)
    return app


def moesif(sink: str, folder: Path) -> Application:
    from moesifasgi import MoesifMiddleware

    app = bare(sink, folder)
    app.add_middleware(MoesifMiddleware, settings={"APPLICATION_ID": "bench", "BASE_URI": sink})
    return app
