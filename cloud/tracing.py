"""Traces by OpenTelemetry, when `trace_endpoint` names a collector; otherwise this costs a function call.

Spans: one per request (its parent taken from `traceparent`), `ingest.commit` per group of reports, `webhook.post` per
attempt, `notice.send` per message. They are sent by OTLP over HTTP, in the background; a collector that is away costs
nothing but the spans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from aiohttp import web

from pisyncd import __version__
from pisyncd.core.errors import ConfigError


class Span(Protocol):
    """What a part of the work says of itself."""

    def ended(self, status: int, problem: str | None) -> None:
        """How a request was answered."""


class _Nothing:
    def ended(self, status: int, problem: str | None) -> None:
        pass


class _Tracer(Protocol):
    def request(self, request: web.Request) -> contextlib.AbstractContextManager[Span]: ...
    def span(self, name: str, attributes: dict[str, Any]) -> contextlib.AbstractContextManager[object]: ...
    def close(self) -> None: ...


_NOTHING = _Nothing()
_tracer: _Tracer | None = None


@contextlib.contextmanager
def running(endpoint: str) -> Iterator[None]:
    """Sends spans to `endpoint` ('http://collector:4318/v1/traces') while inside; nothing when it is empty.

    Raises ConfigError when OpenTelemetry is not installed.
    """
    global _tracer
    if not endpoint:
        yield
        return
    _tracer = _OpenTelemetry(endpoint)
    try:
        yield
    finally:
        tracer, _tracer = _tracer, None
        tracer.close()


@contextlib.contextmanager
def request_span(request: web.Request) -> Iterator[Span]:
    """The span of a request."""
    if _tracer is None:
        yield _NOTHING
        return
    with _tracer.request(request) as span:
        yield span


def span(name: str, **attributes: Any) -> contextlib.AbstractContextManager[object]:
    """The span of a part of the work."""
    return contextlib.nullcontext() if _tracer is None else _tracer.span(name, attributes)


class _OpenTelemetry:
    """The library, imported only here."""

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ConfigError(
                f"trace_endpoint: {error}", hint="pip install -c requirements.lock '.[cloud,trace]', or unset it"
            ) from error
        resource = Resource.create({"service.name": "pisync-cloud", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=10)))
        self._tracer = self._provider.get_tracer("pisync.cloud", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def request(self, request: web.Request) -> Iterator[Span]:
        from opentelemetry.trace import SpanKind

        resource = request.match_info.route.resource
        route = "unmatched" if resource is None else resource.canonical
        attributes = {"http.request.method": request.method, "http.route": route, "url.path": request.path[:200]}
        parent = self._propagator.extract(dict(request.headers))
        with self._tracer.start_as_current_span(
            f"{request.method} {route}", context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            yield _RequestSpan(span)

    def span(self, name: str, attributes: dict[str, Any]) -> contextlib.AbstractContextManager[object]:
        return self._tracer.start_as_current_span(name, attributes=attributes)

    def close(self) -> None:
        self._provider.shutdown()


class _RequestSpan:
    def __init__(self, span: Any) -> None:
        self._span = span

    def ended(self, status: int, problem: str | None) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if problem is not None:
            self._span.set_attribute("pisync.problem", problem)
        if status >= 500:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR))
