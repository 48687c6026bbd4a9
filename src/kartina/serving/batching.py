"""Step batching: rows of different requests share every network evaluation, and come and go between two of them.

A Batcher holds the requests of one process. Each `step` takes one group of rows that may share a batch (same model and
task, and what the family says), fills it up to the cap with rows whose turn it is, evaluates once, and hands out what
is finished. Clients take turns in choosing the group. They have equal shares of its batch, and so have the two oldest
requests of one client; what one does not need, the next ones use. When the batch is full and a request has less than
its share, rows of those that have more are parked: they leave as they are and go on later. Where there are more clients
than rows in a batch, each step serves the next ones.

How many rows a batch has at most, and how many threads evaluate it, was measured (see `tuning`). Deterministic requests
have groups of their own, whose rows are evaluated one by one: what an evaluation computes for a row depends, in the
last bits, on the shape of the batch, so the shape is always the same.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor

from kartina.errors import KartinaError, NotFoundError
from kartina.generators.base import Row, State
from kartina.models import png
from kartina.models.model import Model
from kartina.models.png import Images
from kartina.serving.decoding import Decoder, Decoding
from kartina.serving.protocol import (
    MODELS,
    Canceled,
    Event,
    Failed,
    Finished,
    Output,
    Preview,
    Progress,
    RequestSpec,
    RowSpec,
    Started,
)
from kartina.serving.residency import Residency
from kartina.serving.runtimes import BrokenRuntimeError
from kartina.serving.tuning import Tuner, bucket, on_threads

log = structlog.get_logger("kartina.serving.worker")

BATCH = 64  # rows in one evaluation
TOGETHER = 2  # requests of a client that share its rows: a small one does not wait for a large one before it, and later
# ones cannot delay an earlier one by more than its own size
APART = 8  # rows of a deterministic batch, which are evaluated one by one
PROGRESS_EVERY = 0.25  # seconds
PREVIEW_EVERY = 0.25
FEW = 4  # rows that are started before it is known how long that takes
LONG = 0.25  # seconds after which rows that are still to be started wait for the next step of the others
GRACE = 1.0  # seconds that those who came later may pass a request whose model has no room yet
UNMEASURED = 4  # rows in one evaluation of a model that has not been measured
MAX_PREVIEWS = 64  # images in one Preview
PREVIEW_SIDE = 64  # pixels: a larger one is shown smaller by a whole factor

Tell = Callable[[Event], None]


@dataclass(eq=False)
class Request:
    """An unfinished request."""

    spec: RequestSpec
    tell: Tell
    client: Any  # whose turn it takes
    connection: Any  # who asked
    previews: bool
    model: Model | None = None
    waiting: deque[RowSpec] = field(default_factory=deque)
    parked: deque[Slot] = field(default_factory=deque)
    controls: Any = None
    decoding: Decoding | None = None  # its inputs, until they are there
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)  # by kind, as the family takes them
    given: dict[str, list[str]] = field(default_factory=dict)  # their sha256
    recipe: dict[str, Any] = field(default_factory=dict)
    key: Any = None  # of the group its rows belong to
    started: bool = False
    running: int = 0  # rows in the batch
    finished: int = 0
    each: int = 1  # steps of a row
    told: float = 0.0  # when progress was last told
    shown: float = 0.0  # when previews were
    crowded: float = 0.0  # since when its model has no room; 0: it has


@dataclass(eq=False)
class Slot:
    """A row between its first step and its last; `state` is its own only while it is parked."""

    request: Request
    row: RowSpec
    state: State | None = None


@dataclass(eq=False)
class Group:
    """Rows that may share a batch, and those that do now: row i of `state` is `slots[i]`."""

    model: Model
    hash: str
    slots: list[Slot] = field(default_factory=list)
    state: State | None = None
    cap: int = BATCH
    threads: int = 0  # of one evaluation; 0: as they are set
    tuned: bool = True  # False: until the model has been measured
    apart: bool = False  # rows are evaluated one by one
    changed: bool = True  # requests came or rows left: shares are dealt again
    stepped: int = 0  # when it last was, counted in steps
    ring: dict[Any, None] = field(default_factory=dict)  # clients: the next one to get a row is first


@dataclass
class Tally:
    """Steps taken of a model: see `protocol.Steps`."""

    batches: int = 0
    rows: int = 0
    seconds: float = 0.0
    outputs: int = 0


def _now(work: Callable[[], None]) -> None:
    work()


class Batcher:
    """The requests of one process. Every method belongs to one thread."""

    def __init__(
        self,
        models: Residency,
        batch: int = BATCH,
        tuner: Tuner | None = None,
        later: Callable[[Callable[[], None]], Any] = _now,
    ):
        self.models = models
        self.batch = batch
        self.tuner = tuner
        self.decoder = Decoder(models.wake)
        self.later = later  # does the encoding, in order, perhaps in another thread
        self.held: set[str] = set()  # hashes of models that stay in memory without requests
        self.requests: dict[str, Request] = {}
        self.groups: dict[Any, Group] = {}
        self._turns: dict[Any, None] = {}  # clients: the next one to choose a group is first
        self._steps = 0
        self.tallies: dict[str, Tally] = {}  # by model, since the start

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, spec: RequestSpec, tell: Tell, connection: Any = None) -> None:
        """Take a request in; `tell` gets its events. A client without a name is its connection."""
        client = spec.client or connection
        self.requests[spec.id] = Request(spec, tell, client, connection, spec.previews, waiting=deque(spec.rows))

    def cancel(self, id: str) -> None:
        """End a request now, between two steps."""
        if id in self.requests:
            self._end(self.requests[id], Canceled(id=id))

    def watch(self, id: str, previews: bool) -> None:
        if id in self.requests:
            self.requests[id].previews = previews

    def forget(self, connection: Any) -> None:
        """End every request of a connection that is gone."""
        for request in [r for r in self.requests.values() if r.connection is connection]:
            self.cancel(request.spec.id)

    # -- steps -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One evaluation of one group. False when there was nothing to do: no request, or models are being loaded or
        input images decoded.

        Raises what the device fails with (see `failure`): this process has to end.
        """
        self._prepare()
        self._open_groups()
        key = self._choose()
        if key is None:
            return False
        group = self.groups[key]
        self._steps += 1
        group.stepped = self._steps
        try:
            self._admit(key, group)
            self._advance(group)
        except torch.OutOfMemoryError as error:
            self._shrink(key, group, error)
        if len(group.ring) > group.cap:  # more clients than rows: the next ones' turn
            for client in {slot.request.client: None for slot in group.slots}:
                _to_the_end(group.ring, client)
            group.changed = True
        self._hand_out(group)
        if not group.slots and not any(r.key == key for r in self.requests.values()):
            self.groups.pop(key, None)
        return True

    def _choose(self) -> Any:
        """The group to step: clients take turns, and each one's groups; None when nobody has one."""
        wanted: dict[Any, dict[Any, None]] = {}  # by client, the groups that it has rows in
        for request in self.requests.values():
            if request.model is not None:
                wanted.setdefault(request.client, {})[request.key] = None
        _follow(self._turns, wanted)
        if not wanted:
            return None
        client = next(iter(self._turns))
        _to_the_end(self._turns, client)
        return min(wanted[client], key=lambda key: self.groups[key].stepped)

    def _prepare(self) -> None:
        """Give every new request its model and controls, or its refusal. Where the models in use leave no room for a
        request's, it waits; after GRACE those that came later do, too, for they would keep them in use."""
        used = {r.spec.hash for r in self.requests.values() if r.model is not None}
        now = time.monotonic()
        for request in [r for r in self.requests.values() if r.model is None]:
            spec = request.spec
            if self.models.crowded(used, spec.hash, spec.model):
                request.crowded = request.crowded or now
                if now - request.crowded >= GRACE:
                    break
                continue
            used.add(spec.hash)
            try:
                model = self.models.ask(spec.hash, spec.model)
                if model is None:
                    continue
                if request.decoding is None:
                    request.controls = model.controls(spec.task, **spec.controls)
                    for row in spec.rows:
                        if row.label is not None and not 0 <= row.label < model.family.classes:
                            raise NotFoundError.named("class", str(row.label), model.classes)
                    request.decoding = self.decoder.submit(request.client, model, spec)
                if not request.decoding.found.done():
                    continue
                request.inputs, request.given = request.decoding.found.result()
                request.decoding = None
                request.spec = spec.model_copy(update={"inputs": {}})  # the files have been read
                named = "@".join(Path(spec.model).parts[-2:])  # one content may have several names
                request.recipe = {**model.recipe(request.controls, spec.task), "model": named}
                group = model.family.group(_row(model, request, spec.rows[0]))
                request.key = (spec.hash, spec.task, group, spec.deterministic)
                request.model = model
                if request.key in self.groups:
                    self.groups[request.key].changed = True
            except Exception as error:  # a model from outside may raise anything: its request fails, the others go on
                self._fail(request, error)
        self.models.trim(used | self.held)

    def _open_groups(self) -> None:
        """Let go of groups that no request has any more, with their models; open those that are missing."""
        wanted = {request.key for request in self.requests.values() if request.model is not None}
        for key in [key for key in self.groups if key not in wanted]:
            del self.groups[key]
        for request in self.requests.values():
            if request.model is not None and request.key not in self.groups:
                self.groups[request.key] = self._open(request, request.model)

    def _open(self, request: Request, model: Model) -> Group:
        if request.spec.deterministic:
            return Group(model, request.spec.hash, cap=min(self.batch, APART), apart=True)
        if self.tuner is None:
            return Group(model, request.spec.hash, cap=self.batch)
        group = Group(model, request.spec.hash, cap=min(self.batch, UNMEASURED), tuned=False)
        self._tune(group)
        return group

    @property
    def unmeasured(self) -> str | None:
        """The hash of a model that is sampled from and has not been measured, if there is one."""
        return next((group.hash for group in self.groups.values() if not group.tuned), None)

    def _tune(self, group: Group) -> None:
        """Let a group have what was measured of its model, once that is known."""
        if group.tuned or self.tuner is None:
            return
        known = self.tuner.get(group.hash)
        if known is not None:
            group.cap, group.threads = min(self.batch, known.batch), known.threads
            group.tuned = group.changed = True

    def _admit(self, key: Any, group: Group) -> None:
        """Give every request the rows that are its share: park what is over it, start or take back what is missing.

        Raises OutOfMemoryError where they do not fit: those that did not get in are parked or wait, as before.
        """
        self._tune(group)
        if not group.changed:
            return
        group.changed = False
        asking = [r for r in self.requests.values() if r.key == key]
        _follow(group.ring, {r.client: None for r in asking})
        order = {client: i for i, client in enumerate(group.ring)}
        asking.sort(key=lambda r: order[r.client])
        share = shares([(r.client, r.running + len(r.waiting) + len(r.parked)) for r in asking], group.cap)
        over = {r: r.running - n for r, n in zip(asking, share, strict=True)}
        parked: list[int] = []
        for i in reversed(range(len(group.slots))):
            if over[group.slots[i].request] > 0:
                over[group.slots[i].request] -= 1
                parked.append(i)
        self._park(group, parked)

        back: list[Slot] = []
        fresh: list[Slot] = []
        for request, n in zip(asking, share, strict=True):
            while request.running < n:
                request.running += 1
                if request.parked:
                    back.append(request.parked.popleft())
                else:
                    fresh.append(Slot(request, request.waiting.popleft()))
        try:
            if back:
                states = [slot.state for slot in back if slot.state is not None]
                group.state = State.cat([group.state, *states] if group.state is not None else states)
                group.slots += back
                for slot in back:
                    slot.state = None
            self._start_all(group, fresh)
        except torch.OutOfMemoryError:
            there = set(group.slots)
            for slot in reversed([slot for slot in (*back, *fresh) if slot not in there]):
                slot.request.running -= 1
                if slot.state is not None:
                    slot.request.parked.appendleft(slot)
                else:
                    slot.request.waiting.appendleft(slot.row)
            raise

    def _park(self, group: Group, rows: Sequence[int]) -> None:
        """Take rows (the last first) out of the batch, to go on later from where they are."""
        if not rows or group.state is None:
            return
        parked = [(group.slots[i], group.state.take(torch.tensor([i]))) for i in rows]
        self._keep(group, [i for i in range(len(group.slots)) if i not in set(rows)])
        for slot, state in parked:
            slot.state = state
            slot.request.parked.appendleft(slot)
            slot.request.running -= 1

    def _start_all(self, group: Group, fresh: list[Slot]) -> None:
        """Start rows, a few at first. To start one is to draw noise, and for some tasks a search that takes as long as
        many steps: then those that are left wait, so that the others' rows are stepped meanwhile."""
        begun, n = time.perf_counter(), FEW
        while fresh:
            some, fresh = fresh[:n], fresh[n:]
            self._start(group, some)
            fresh = [slot for slot in fresh if self.requests.get(slot.request.spec.id) is slot.request]  # some failed
            took = time.perf_counter() - begun
            if took > LONG:
                break
            n = len(fresh) if took < LONG / 8 else FEW
        for slot in reversed(fresh):
            slot.request.running -= 1
            slot.request.waiting.appendleft(slot.row)
            group.changed = True

    def _start(self, group: Group, fresh: list[Slot]) -> None:
        """Start rows together; where that fails, one request at a time, so that only the guilty one fails."""
        rows = [_row(group.model, slot.request, slot.row) for slot in fresh]
        try:
            if group.apart:
                state = State.cat([group.model.family.start([row]) for row in rows])
            else:
                state = group.model.family.start(rows)
        except torch.OutOfMemoryError:  # see _admit
            raise
        except Exception as error:  # see _prepare
            requests = _owners(fresh)
            if len(requests) == 1:
                return self._fail(fresh[0].request, error)
            for request in requests:
                self._start(group, [slot for slot in fresh if slot.request is request])
            return
        group.state = state if group.state is None else State.cat([group.state, state])
        group.slots += fresh
        for slot, steps in zip(fresh, state["steps"].tolist(), strict=True):
            slot.request.each = max(1, int(steps))
            if not slot.request.started:
                slot.request.started = True
                slot.request.told = time.monotonic()
                slot.request.tell(Started(id=slot.request.spec.id))

    def _advance(self, group: Group) -> None:
        """One network evaluation for every row of the batch."""
        if group.state is None or bool(group.state.done.all()):
            return
        begun = time.perf_counter()
        try:
            group.state = self._evaluate(group, group.state)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # see _prepare
            requests = _owners(group.slots)
            if len(requests) == 1:
                return self._fail(group.slots[0].request, error)
            self._advance_apart(group, requests)
        tally = self._tally(group)
        tally.batches += 1
        tally.seconds += time.perf_counter() - begun
        tally.rows += len(group.slots)

    def _tally(self, group: Group) -> Tally:
        name = group.model.ref
        if name not in self.tallies and len(self.tallies) >= MODELS:
            name = "other"
        return self.tallies.setdefault(name, Tally())

    def _evaluate(self, group: Group, state: State) -> State:
        """The family's step; in a deterministic group row by row, on a GPU in a batch of one of BUCKETS' sizes."""
        family, n = group.model.family, len(state)
        if group.apart:
            return State.cat([family.step(_single(state, i)) for i in range(n)])
        if self.models.device == "cpu":
            with on_threads(group.threads, self.models.device):
                return self._by_runtime(group, state)
        size = bucket(n)
        if size == n:
            return self._by_runtime(group, state)
        padded = state.take(torch.tensor([*range(n), *[n - 1] * (size - n)]))
        return self._by_runtime(group, padded).take(torch.arange(n))

    def _by_runtime(self, group: Group, state: State) -> State:
        """The family's step by the runtime that was chosen for it; by torch's own where there is none, or it fails."""
        resident = self.models.resident(group.hash)
        if self.tuner is not None and resident is not None and resident.runtime is not None:
            try:
                with resident.runtime.instead(group.model.family):
                    return group.model.family.step(state)
            except BrokenRuntimeError as error:
                self.tuner.give_up(resident, error)
        return group.model.family.step(state)

    def _advance_apart(self, group: Group, requests: list[Request]) -> None:
        """The step again, one request at a time: those that fail alone, fail."""
        whole, slots = group.state, group.slots
        assert whole is not None
        parts: list[State] = []
        kept: list[Slot] = []
        for request in requests:
            mine = [i for i, slot in enumerate(slots) if slot.request is request]
            try:
                parts.append(self._evaluate(group, whole.take(torch.tensor(mine))))
            except Exception as error:  # see _prepare
                self._fail(request, error)
            else:
                kept += [slots[i] for i in mine]
        group.slots, group.state = kept, State.cat(parts) if parts else None

    def _shrink(self, key: Any, group: Group, error: torch.OutOfMemoryError) -> None:
        """Halve the batch; a request that does not fit alone fails."""
        log.warning("out_of_memory", rows=len(group.slots), cap=group.cap)
        if group.cap <= 1:
            running = [slot.request for slot in group.slots]
            request = next(iter(running), None) or next(r for r in self.requests.values() if r.key == key)
            return self._fail(request, error)
        group.cap //= 2
        group.changed = True
        self._park(group, list(reversed(range(group.cap, len(group.slots)))))

    # -- results -----------------------------------------------------------------------------------------------------

    def _hand_out(self, group: Group) -> None:
        """Send finished rows' images; tell the others' progress and show what they look like."""
        if group.state is None:
            return
        done = group.state.done.tolist()
        if any(done):
            self._finish(group, [i for i, d in enumerate(done) if d])
        if group.state is None:
            return
        now = time.monotonic()
        step = group.state["step"].tolist()
        requests = _owners(group.slots)
        for request in requests:
            mine = [i for i, slot in enumerate(group.slots) if slot.request is request]
            if now - request.told >= PROGRESS_EVERY:
                request.told = now
                parked = sum(int(slot.state["step"][0]) for slot in request.parked if slot.state is not None)
                whole = len(request.spec.rows) * request.each
                made = request.finished * request.each + sum(step[i] for i in mine) + parked
                request.tell(Progress(id=request.spec.id, step=min(made, whole), steps=whole))
            if request.previews and now - request.shown >= PREVIEW_EVERY:
                request.shown = now
                self._show(group, request, mine[:MAX_PREVIEWS])

    def _finish(self, group: Group, done: list[int]) -> None:
        """Let finished rows leave the batch, and have their images encoded and sent."""
        assert group.state is not None
        slots = [group.slots[i] for i in done]
        part = group.state.take(torch.tensor(done))
        self._keep(group, [i for i in range(len(group.slots)) if i not in set(done)])
        try:
            images = self._images(group, part).numpy()
        except Exception as error:  # see _prepare
            for request in _owners(slots):
                self._fail(request, error)
            return
        ended = []
        for slot in slots:
            request = slot.request
            request.running -= 1
            request.finished += 1
            self._tally(group).outputs += 1
            _to_the_end(group.ring, request.client)
            if request.finished == len(request.spec.rows):
                self._leave(request)
                ended.append(request)
        self.later(lambda: _send(slots, images, ended))

    def _images(self, group: Group, part: State) -> Tensor:
        """uint8 N,C,H,W of finished rows."""
        family = group.model.family
        if not group.apart:
            return family.finish(part).images
        return torch.cat([family.finish(_single(part, i)).images for i in range(len(part))])

    def _show(self, group: Group, request: Request, rows: list[int]) -> None:
        assert group.state is not None
        try:
            found = group.model.family.preview(group.state.take(torch.tensor(rows)))
            files = [] if found is None else [png.encode(image) for image in _smaller(found).numpy()]
        except Exception as error:  # see _prepare; a preview is not worth the request
            log.error("preview_crashed", id=request.spec.id, model=request.spec.hash[:12], exc_info=error)
            request.previews = False
            return
        if files:
            images = tuple((group.slots[i].row.index, file) for i, file in zip(rows, files, strict=True))
            request.tell(Preview(id=request.spec.id, images=images))

    # -- help --------------------------------------------------------------------------------------------------------

    def _keep(self, group: Group, rows: list[int]) -> None:
        """Only these rows stay in the batch."""
        group.changed = True
        group.state = group.state.take(torch.tensor(rows)) if rows and group.state is not None else None
        group.slots = [group.slots[i] for i in rows]

    def _fail(self, request: Request, error: Exception) -> None:
        """End a request with its error; one that is not the product's own is logged."""
        self._end(request, failure(request.spec.id, request.spec.hash, error))

    def _end(self, request: Request, event: Event) -> None:
        """Take a request and its rows out, and say so."""
        if self._leave(request):
            request.tell(event)

    def _leave(self, request: Request) -> bool:
        """Take a request and its rows out; False when it is out already."""
        if self.requests.pop(request.spec.id, None) is None:
            return False
        if request.decoding is not None:
            request.decoding.stop()
        group = self.groups.get(request.key)
        if group is not None:
            group.changed = True
        if group is not None and any(slot.request is request for slot in group.slots):
            self._keep(group, [i for i, slot in enumerate(group.slots) if slot.request is not request])
        request.waiting.clear()
        request.parked.clear()
        return True


def _send(slots: Sequence[Slot], images: Images, ended: Sequence[Request]) -> None:
    """Encode and tell of finished rows, images uint8 N,C,H,W; then of the end of the requests that they complete."""
    height, width = images.shape[2:]
    for slot, image in zip(slots, images, strict=True):
        spec = slot.request.spec
        try:
            file = png.encode(image, _recipe(slot))
        except Exception as error:  # see _prepare; rows that are still to come are told to nobody
            slot.request.tell(failure(spec.id, spec.hash, error))
        else:
            slot.request.tell(Output(id=spec.id, index=slot.row.index, png=file, width=width, height=height))
    for request in ended:
        whole = request.finished * request.each
        request.tell(Progress(id=request.spec.id, step=whole, steps=whole))
        request.tell(Finished(id=request.spec.id))


def failure(id: str, hash: str, error: Exception) -> Failed:
    """What is told of an error met with a model; one that is not the product's own is logged.

    Raises the error itself when the device fails with it: in this process nobody's request can be made any more.
    """
    if isinstance(error, KartinaError):
        return Failed(id=id, code=error.code, message=str(error))
    if is_of_device(error):
        raise error
    log.error("request_crashed", id=id, model=hash[:12], exc_info=error)
    message = f"Sampling failed inside the model ({type(error).__name__}: {error}); the log has the whole story."
    return Failed(id=id, code="error", message=message[:2000])


def is_of_device(error: Exception) -> bool:
    """Whether an error, such as a failed assertion or an illegal address in a kernel, leaves its process no device."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _owners(slots: Sequence[Slot]) -> list[Request]:
    """The requests that the rows belong to, each once."""
    return list(dict.fromkeys(slot.request for slot in slots))


def _follow(ring: dict[Any, None], there: Mapping[Any, Any]) -> None:
    """Let those go round the ring that are there: newcomers last."""
    for client in [client for client in ring if client not in there]:
        del ring[client]
    ring.update(dict.fromkeys(there))


def _to_the_end(ring: dict[Any, None], client: Any) -> None:
    ring.pop(client, None)
    ring[client] = None


def _single(state: State, i: int) -> State:
    """Row i alone, in memory as it always is: a kernel may be chosen by strides, too."""
    return State({k: v[i : i + 1].clone(memory_format=torch.contiguous_format) for k, v in state.tensors.items()})


def _smaller(images: Tensor) -> Tensor:
    """uint8 N,C,H,W with no side over PREVIEW_SIDE: means over squares of pixels."""
    factor = -(-max(images.shape[2:]) // PREVIEW_SIDE)
    if factor == 1:
        return images
    return torch.nn.functional.avg_pool2d(images.float(), factor, ceil_mode=True).round().to(torch.uint8)


def shares(asking: Sequence[tuple[Any, int]], cap: int) -> list[int]:
    """How many rows of a batch of `cap` each request gets, given its (client, rows that it wants).

    Rows are dealt one by one: to the client that has fewest, of its TOGETHER oldest requests that want more to the one
    that has fewest; among equals to the one that comes first. Nobody gets more than it wants, and nothing is left while
    somebody wants.
    """
    got = [0] * len(asking)
    waiting: dict[Any, deque[int]] = {}  # client -> its requests, the oldest first
    for age, (client, wants) in enumerate(asking):
        if wants:
            waiting.setdefault(client, deque()).append(age)
    hands: dict[Any, list[tuple[int, int]]] = {}  # client -> those that share, as a heap of (rows, age)
    for client, ages in waiting.items():
        hands[client] = [(0, ages.popleft()) for _ in range(min(TOGETHER, len(ages)))]
    clients = [(0, order, client) for order, client in enumerate(hands)]
    while cap and clients:
        rows, order, client = heapq.heappop(clients)
        _, age = heapq.heappop(hands[client])
        got[age] += 1
        cap -= 1
        if got[age] < asking[age][1]:
            heapq.heappush(hands[client], (got[age], age))
        elif waiting[client]:
            heapq.heappush(hands[client], (0, waiting[client].popleft()))
        if hands[client]:
            heapq.heappush(clients, (rows + 1, order, client))
    return got


def _row(model: Model, request: Request, row: RowSpec) -> Row:
    """What the family is asked for."""
    weights = torch.zeros(model.family.classes)
    weights[row.label or 0] = 1.0
    inputs = {kind: found[row.index % len(found)] for kind, found in request.inputs.items()}
    return Row(weights, row.seed, request.controls, request.spec.task, inputs)


def _recipe(slot: Slot) -> dict[str, Any]:
    """What makes this image again."""
    model, label = slot.request.model, slot.row.label
    name = model.classes[label] if model is not None and label is not None and model.classes else None
    given = {kind: found[slot.row.index % len(found)] for kind, found in slot.request.given.items()}
    return {**slot.request.recipe, "label": name, "seed": slot.row.seed, **given}
