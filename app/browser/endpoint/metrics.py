"""What the endpoint has done, in the text that Prometheus reads."""

from collections.abc import Iterable

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from ..rendering import session_of
from ..session import Session

router = APIRouter()

_SECONDS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one server."""

    def __init__(self, session: Session) -> None:
        """Take what the server has open, for how busy its engine is."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sparsteer_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "sparsteer_prompt_tokens", "Tokens of prompts", registry=self.registry
        )
        self.generated_tokens = Counter(
            "sparsteer_generated_tokens", "Tokens that were answered", registry=self.registry
        )
        self.first_token_seconds = Histogram(
            "sparsteer_first_token_seconds",
            "Time from a request to its first token",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_EngineCollector(session))


class _EngineCollector(Collector):
    """How busy the engine is when somebody asks; nothing while the model is read."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        engine = self._session.running_engine
        if engine is None:
            return
        state = engine.state
        gauges = {
            "slots": ("Texts that can be generated at once", state.slots),
            "slots_in_use": ("Texts that are generated now", state.slots_in_use),
            "queue_depth": ("Requests that wait for a slot", state.waiting),
            "tokens_per_second": ("Tokens generated over ten seconds", state.tokens_per_second),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(f"sparsteer_{name}", what, value=float(value))
        yield CounterMetricFamily(
            "sparsteer_engine_tokens",
            "Tokens the engine chose",
            value=float(state.tokens_generated),
        )


def metrics_of(request: Request) -> Metrics:
    """The counters of the server that answers a request."""
    state = request.app.state
    if not hasattr(state, "metrics"):
        state.metrics = Metrics(session_of(request))
    return state.metrics


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All counters, in Prometheus' text format."""
    text = generate_latest(metrics_of(request).registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
