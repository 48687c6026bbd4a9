"""The typed Python client of a Kartina service.

    from kartina.client import Client

    client = Client("https://images.example.org", key="kt_...")          # or KARTINA_URL, KARTINA_KEY
    job = client.generate("fashion-flow", labels=["Bag"], n=4, seed=7)   # accepted: it will be made
    for event in job.events():                                           # live; over restarts, too
        print(job.status, job.progress.value)
    job.images[0].save("bag.png")
    client.generate("fashion-flow", labels=["Bag"], wait=True).images[0].pil()

`AsyncClient` has the same methods to await. It needs nothing of Kartina but this package: no torch, no FastAPI.
"""

from __future__ import annotations

from kartina.client.asynchronous.client import AsyncClient
from kartina.client.asynchronous.generations import AsyncGeneration, AsyncOutputEvent
from kartina.client.asynchronous.images import AsyncImage, AsyncStoredImage
from kartina.client.asynchronous.jobs import AsyncJob
from kartina.client.errors import (
    AnswerError,
    BusyError,
    CanceledError,
    ClientError,
    ConflictError,
    ForbiddenError,
    InputError,
    InternalError,
    NotFoundError,
    QuotaError,
    ServiceError,
    SignInError,
    UnreachableError,
    WaitError,
)
from kartina.client.inputs import Filters, Options
from kartina.client.schemas import (
    Asset,
    GenerationSettings,
    Health,
    Key,
    Metric,
    Model,
    NewKey,
    PreviewEvent,
    Problem,
    Progress,
    ProgressEvent,
    Session,
    StatusEvent,
    Task,
)
from kartina.client.synchronous.client import Client
from kartina.client.synchronous.generations import Generation, OutputEvent
from kartina.client.synchronous.images import Image, StoredImage
from kartina.client.synchronous.jobs import Job
from kartina.client.work_schemas import (
    BulkEstimate,
    Dataset,
    EvaluationEstimate,
    RunDetail,
    RunEstimate,
    StudyDetail,
    StudyEstimate,
    Upload,
    WorkLogEvent,
    WorkProgressEvent,
    WorkStatusEvent,
)

__all__ = [
    "AnswerError",
    "Asset",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncImage",
    "AsyncJob",
    "AsyncOutputEvent",
    "AsyncStoredImage",
    "BulkEstimate",
    "BusyError",
    "CanceledError",
    "Client",
    "ClientError",
    "ConflictError",
    "Dataset",
    "EvaluationEstimate",
    "Filters",
    "ForbiddenError",
    "Generation",
    "GenerationSettings",
    "Health",
    "Image",
    "InputError",
    "InternalError",
    "Job",
    "Key",
    "Metric",
    "Model",
    "NewKey",
    "NotFoundError",
    "Options",
    "OutputEvent",
    "PreviewEvent",
    "Problem",
    "Progress",
    "ProgressEvent",
    "QuotaError",
    "RunDetail",
    "RunEstimate",
    "ServiceError",
    "Session",
    "SignInError",
    "StatusEvent",
    "StoredImage",
    "StudyDetail",
    "StudyEstimate",
    "Task",
    "UnreachableError",
    "Upload",
    "WaitError",
    "WorkLogEvent",
    "WorkProgressEvent",
    "WorkStatusEvent",
]
