"""What a service measures of itself, as Prometheus reads it.

Counters and histograms live here; what others know (the engine's worker, the table of jobs) is asked for at every
scrape. Labels are few: routes are templates, models beyond the first MODELS are "other".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from kartina.serving.protocol import MODELS, Stats
from kartina.storage.records import Generation

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True)
class Snapshot:
    """What was asked of others for one scrape."""

    queue: int = 0  # images that were asked for and are not there yet
    workers: Sequence[Stats] = ()  # those sampling workers that answer
    restarts: Mapping[str, int] = field(default_factory=dict)  # by kind of worker
    jobs: Mapping[str, int] = field(default_factory=dict)  # by status


class Metrics:
    """The metrics of one process. Belongs to one event loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        to = self.registry
        self.requests = Counter("kartina_http_requests", "Answers", ["method", "route", "status"], registry=to)
        self.request_seconds = self._histogram("http_request", "From a request to the end of its answer", "route")
        self.streams = Gauge("kartina_event_streams", "Streams of events that are open", registry=to)
        self.generations = Counter("kartina_generations", "Generations that ended", ["model", "status"], registry=to)
        self.images = Counter("kartina_images", "Images made and stored", ["model"], registry=to)
        self.generation_seconds = self._histogram("generation", "From accepted to succeeded", "model")
        self.queue_seconds = self._histogram("generation_queue", "From accepted to the first step", "model")
        self._models: set[str] = set()
        self._snapshot = Snapshot()
        self.registry.register(self)

    def _histogram(self, name: str, about: str, label: str) -> Histogram:
        return Histogram(f"kartina_{name}_seconds", about, [label], buckets=SECONDS, registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer to a request of a route (its template)."""
        self.requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def made(self, model: str, n: int) -> None:
        """Count stored images of a model (name@version)."""
        self.images.labels(self._named(model)).inc(n)

    def ended(self, record: Generation) -> None:
        """Count a generation that has ended."""
        model = self._named(record.model)
        self.generations.labels(model, record.status).inc()
        if record.started_at is not None:
            self.queue_seconds.labels(model).observe((record.started_at - record.created_at).total_seconds())
        if record.completed_at is not None and record.status == "succeeded":
            self.generation_seconds.labels(model).observe((record.completed_at - record.created_at).total_seconds())

    def _named(self, model: str) -> str:
        if model not in self._models and len(self._models) >= MODELS:
            return "other"
        self._models.add(model)
        return model

    def text(self, snapshot: Snapshot) -> bytes:
        """Everything, in Prometheus' text format."""
        self._snapshot = snapshot
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The snapshot's part: the registry calls this."""
        now = self._snapshot
        yield GaugeMetricFamily("kartina_queue_images", "Images asked for and not there yet", now.queue)
        yield GaugeMetricFamily("kartina_worker_up", "Sampling workers that answer", len(now.workers))
        restarts = CounterMetricFamily("kartina_worker_restarts", "Workers that were started again", labels=["worker"])
        for name, count in now.restarts.items():
            restarts.add_metric([name], count)
        yield restarts
        jobs = GaugeMetricFamily("kartina_jobs", "Jobs", labels=["status"])
        for status, count in now.jobs.items():
            jobs.add_metric([status], count)
        yield jobs
        yield from _of_workers(now.workers)


def _of_workers(workers: Sequence[Stats]) -> Iterator[Metric]:
    """What the sampling workers say, by device; the second on one device is "cpu 2"."""
    gauge, by = GaugeMetricFamily, ["device", "model"]
    rows = gauge("kartina_engine_rows", "Images in the worker", labels=["device", "state"])
    batches = SummaryMetricFamily("kartina_engine_batch_rows", "Rows of an evaluation", labels=by)
    steps = SummaryMetricFamily("kartina_engine_step_seconds", "Seconds of an evaluation", labels=by)
    images = CounterMetricFamily("kartina_engine_images", "Images made since the worker started", labels=by)
    models = gauge("kartina_engine_resident_models", "Models in memory", labels=["device"])
    weights = gauge("kartina_engine_resident_bytes", "Bytes of each of those models", labels=by)
    memory = gauge("kartina_worker_resident_memory_bytes", "The worker's memory (RSS)", labels=["device"])
    for i, stats in enumerate(workers):
        same = sum(other.device == stats.device for other in workers[:i])
        device = f"{stats.device} {same + 1}" if same else stats.device
        rows.add_metric([device, "waiting"], stats.waiting)
        rows.add_metric([device, "running"], stats.running)
        for model, found in stats.by_model.items():
            batches.add_metric([device, model], found.batches, found.rows)
            steps.add_metric([device, model], found.batches, found.seconds)
            images.add_metric([device, model], found.outputs)
        models.add_metric([device], len(stats.models))
        for model, size in stats.resident.items():
            weights.add_metric([device, model], size)
        memory.add_metric([device], stats.rss)
    yield from (rows, batches, steps, images, models, weights, memory)
