"""Metergate as a Flask extension: it lets in after what authenticates, and answers as the application does.

metergate = FlaskMetergate(app, Metergate(meter={"type": "api-request"}, required_entitlements=["api"]))

@app.get("/chat")
@metergate.require("chat", meter={"type": "chat"})
def chat(): ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Flask, Response, after_this_request, g, request

from metergate.engine import Engine
from metergate.middleware import denied, wsgi
from metergate.middleware.current import current, metering
from metergate.middleware.host import Metergate

_View = TypeVar("_View", bound=Callable[..., Any])


class FlaskMetergate:
    """Meters a Flask application and lets in whom its entitlements allow.

    Who is calling is ``g.user``, or Flask-Login's current user, unless the `Metergate` was told otherwise; its ``user=``
    gets the environ. Make it *after* what authenticates with ``before_request``: Flask calls these in their order.
    """

    def __init__(self, app: Flask, metergate: Metergate) -> None:
        self.metergate = metergate
        app.wsgi_app = wsgi.MetergateMiddleware(app.wsgi_app, metergate, admits=False)  # type: ignore[method-assign]
        app.before_request(self._admit)
        app.register_error_handler(denied.Denied, _refuse)
        app.extensions["metergate"] = self

    def require(self, *features: str, **options: Any) -> Callable[[_View], _View]:
        """Let a view be called only by who is entitled to these features, too; ``options`` as for `Metergate`: what else
        differs, such as ``meter``, which then counts beside the application's. Below the route's decorator.

        Raises:
            ConfigurationError: options that cannot be right.
        """
        options.setdefault("meter", [])
        engine = self.metergate.engine_for("require", required_entitlements=[*features], **options)

        def decorate(view: _View) -> _View:
            @wraps(view)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                self._admit_by(engine)
                return view(*args, **kwargs)

            return cast(_View, guarded)

        return decorate

    def _admit(self) -> None:
        if current.get() is not None:
            self._admit_by(self.metergate.engine)

    def _admit_by(self, engine: Engine) -> None:
        caller = self.metergate.caller(request.environ, _found_user(), _header)
        route = request.url_rule.rule if request.url_rule is not None else request.path
        wsgi.admit(self.metergate, engine, caller, route, metering(), _explain)


def _found_user() -> Any:
    return (
        g.get("user") or g.get("_login_user") or request.environ.get("REMOTE_USER")
    )  # the second is Flask-Login's


def _header(name: bytes) -> str | None:
    return wsgi.read_header(request.environ, name)


def _explain(name: str, value: str) -> None:
    @after_this_request
    def add(response: Response) -> Response:
        response.headers.add(name, value)
        return response


def _refuse(refusal: denied.Denied) -> Response:
    denial = refusal.denial
    body = denied.problem(denial, request.path, metering().request_id)
    return Response(body, denial.status, dict(denied.headers(denial, len(body))))
