"""Metergate as a Django middleware, behind ASGI or WSGI, and a decorator for what some views need.

MIDDLEWARE = [..., "django.contrib.auth.middleware.AuthenticationMiddleware",
              "metergate.middleware.django.MetergateMiddleware"]
METERGATE = {"meter": {"type": "api-request"}, "required_entitlements": ["api"]}

@require_entitlement("ai_tokens")
def chat(request): ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings  # type: ignore[import-untyped]
from django.http import HttpResponse  # type: ignore[import-untyped]

from metergate.errors import UsageError
from metergate.middleware import denied
from metergate.middleware.current import current
from metergate.middleware.exchange import Exchange
from metergate.middleware.host import Metergate
from metergate.middleware.requirements import Requirement

View = Callable[..., Any]

_EXCHANGE = "metergate_exchange"


class MetergateMiddleware:
    """Meters a Django application and lets in whom its entitlements allow.

    Behind what authenticates: who is calling is ``request.user``, unless the setting says otherwise; its ``user`` gets the
    request. Before what changes bodies, such as compression, or behind it: nothing is changed here.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[..., Any]) -> None:
        self._get_response = get_response
        self._metergate = application_metergate()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        if self._metergate.is_excluded(request.path_info):
            setattr(request, _EXCHANGE, None)
            return self._get_response(request)
        self._metergate.start()
        exchange = Exchange(self._metergate, request)
        setattr(request, _EXCHANGE, exchange)
        return self._serve_async(request, exchange) if self._is_async else self._serve(request, exchange)

    def _serve(self, request: Any, exchange: Exchange) -> Any:
        remembered = current.set(exchange.metering)
        try:
            exchange.admit()
            response = self._get_response(request)
        except denied.Denied as refusal:
            response = _refusal(request, exchange, refusal)
        except BaseException:
            exchange.give_up()
            raise
        finally:
            current.reset(remembered)
        return exchange.end(response)

    async def _serve_async(self, request: Any, exchange: Exchange) -> Any:
        remembered = current.set(exchange.metering)
        try:
            await exchange.admit_async()
            response = await self._get_response(request)
        except denied.Denied as refusal:
            response = _refusal(request, exchange, refusal)
        except BaseException:
            exchange.give_up()
            raise
        finally:
            current.reset(remembered)
        return await exchange.end_async(response)


def require_entitlement(*features: str, **options: Any) -> Callable[[View], View]:
    """Let a view, sync or async, be called only by who is entitled to these features, too.

    ``options`` as for `Metergate`: what differs from the application's, such as ``meter``, which then counts beside its own.
    A class's views: ``@method_decorator(require_entitlement("x"), name="dispatch")``.

    Raises:
        ConfigurationError: options that cannot be right.
    """
    requirement = Requirement(features, options)

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = _exchange_of(request)
            if exchange is not None:
                try:
                    exchange.admit(requirement)
                except denied.Denied as refusal:
                    return _refusal(request, exchange, refusal)
            return view(request, *args, **kwargs)

        @wraps(view)
        async def guarded_async(request: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = _exchange_of(request)
            if exchange is not None:
                try:
                    await exchange.admit_async(requirement)
                except denied.Denied as refusal:
                    return _refusal(request, exchange, refusal)
            return await view(request, *args, **kwargs)

        return guarded_async if iscoroutinefunction(view) else guarded

    return decorate


def application_metergate() -> Metergate:
    """That of the setting ``METERGATE``: a `Metergate`, or a dict of what to make it of. For ``flush()``, for instance."""
    given = settings.METERGATE
    return given if isinstance(given, Metergate) else _from_settings()


@lru_cache(maxsize=1)
def _from_settings() -> Metergate:
    return Metergate(**settings.METERGATE)


def _exchange_of(request: Any) -> Exchange | None:
    if not hasattr(request, _EXCHANGE):
        raise UsageError(
            f"nothing can be required here: MIDDLEWARE lacks {MetergateMiddleware.__module__}.MetergateMiddleware"
        )
    exchange: Exchange | None = getattr(request, _EXCHANGE)
    return exchange


def _refusal(request: Any, exchange: Exchange, refusal: denied.Denied) -> Any:
    denial = refusal.denial
    body = denied.problem(denial, request.path, exchange.metering.request_id)
    return HttpResponse(body, status=denial.status, headers=dict(denied.headers(denial, len(body))))
