"""Settings of an installation: one frozen model, every default declared once.

    settings = load()                         # a flag > KARTINA_PORT=80 > port = 80 in config.toml > the default
    settings.port, settings.source("port")

The file is KARTINA_HOME/config.toml, or the one that KARTINA_CONFIG (or --config) names. It is TOML, flat, with the
names below. A name that is none of them, and a value that cannot be used, is a ConfigError that says where it stands.
Processes that the service starts read the same file and environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from kartina.config import home
from kartina.errors import ConfigError

PREFIX = "KARTINA_"
FILE = "config.toml"  # in KARTINA_HOME
WHERE = "KARTINA_CONFIG"  # the environment variable that names another file
CLIENTS = ("KARTINA_URL", "KARTINA_KEY")  # kartina.client's, which may stand in the same environment
DEFAULT = "default"  # the source of what nobody has set


def _device(given: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", given):
        raise PydanticCustomError("device", "Input should be auto, cpu, cuda, mps, or several as in cuda:0,cuda:1")
    return given


Device = Annotated[str, AfterValidator(_device)]


class Settings(BaseSettings):
    """Everything that can be set. `load` reads it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    # What is kept, and where.
    home: Path = Field(
        default_factory=home,
        description="Folder of everything you make (~/.kartina where nothing is said). By the environment only",
    )
    database: str | None = Field(
        default=None,
        repr=False,
        description="URL of a PostgreSQL, or of another SQLite file. Default: kartina.db in the home",
    )
    blobs: str | None = Field(
        default=None,
        description="URL of a bucket for images (s3://bucket/prefix). Default: blobs in the home",
    )
    secret: SecretStr | None = Field(
        default=None, min_length=16, description="Secret of the API keys. Default: keys.key in the home"
    )
    busy: float = Field(default=30.0, ge=0.1, le=600, description="Seconds that a write waits for a locked database")

    # Who is served, and where.
    host: str = Field(
        default="127.0.0.1", description="Address to serve on. Any but a loopback one needs an API key (kartina keys)"
    )
    allow_host: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Names that others reach this service by, where the address is no loopback one"
    )
    port: int | None = Field(default=None, ge=0, le=65535, description="Port. Default: the first free one from 8765 on")
    open: bool = Field(default=True, description="Open a browser, where there is a desktop")
    jobs: bool = Field(default=True, description="Also run queued jobs (kartina jobs): one of each lane at a time")
    drain: int = Field(
        default=25, ge=0, le=3600, description="Seconds that responses under way, and a job, have to end after SIGTERM"
    )

    # What makes the images.
    device: Annotated[tuple[Device, ...], NoDecode] = Field(
        default=("auto",), min_length=1, max_length=64,
        description="What samples: auto, cpu, cuda or mps; cuda:0,cuda:1 is two GPUs, each with a worker of its own",
    )  # fmt: skip
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads for sampling; 0: measured for each model")
    batch: int = Field(default=64, ge=1, le=4096, description="Images in one evaluation, at most; how many is measured")
    runtime: Literal["auto", "eager", "onnx", "openvino"] = Field(
        default="auto", description="What evaluates networks on a CPU; auto: the fastest of those installed"
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16: networks in bfloat16 where that is faster; images then differ a little",
    )
    memory: int = Field(
        default=2048, ge=1, description="MiB of models that stay in memory; those in use may take twice as much"
    )
    ready: int = Field(
        default=4, ge=0, le=1024, description="Models made ready in the background when the service starts; 0: none"
    )
    cache: int = Field(default=64, ge=0, description="MiB of finished images kept to answer repetitions; 0: none")
    queue: int = Field(default=4096, ge=1, le=10**6, description="Images that may wait; more are refused with 429")
    deterministic: bool = Field(default=False, description="The same image byte for byte at any load: slower")

    # What is told.
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console lines on a terminal, JSON elsewhere"
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("allow_host", "device", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        return tuple(part.strip() for part in given.split(",") if part.strip()) if isinstance(given, str) else given

    @field_validator("home")
    @classmethod
    def _whole(cls, given: Path) -> Path:
        return given.expanduser().absolute()

    @classmethod
    def settings_customise_sources(  # `load` asks the others: it says which one had what
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    def source(self, name: str) -> str:
        """Where the value comes from: "--port", "KARTINA_PORT", the file's path, or "default"."""
        return self._sources.get(name, DEFAULT)

    def shown(self, name: str) -> str:
        """The value as it may be printed: no secret, no password."""
        return show(getattr(self, name))


def show(value: Any) -> str:
    """A value as it may be printed and, but for secrets, set."""
    match value:
        case None:
            return ""
        case SecretStr():
            return "(set; never shown)"
        case bool():
            return "true" if value else "false"
        case tuple():
            return ", ".join(map(str, value))
        case str() if "://" in value:
            return without_password(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def without_password(url: str) -> str:
    """A URL with its password, wherever it stands, as three stars."""
    try:
        parts = urlsplit(url)
        if "@" not in parts.netloc and not parts.query:
            return url
        name = parts.netloc.rpartition("@")[2]
        user = f"{parts.username}:***@" if parts.password is not None else f"{parts.username}@"
        netloc = f"{user}{name}" if "@" in parts.netloc else name
        query = [(k, "***" if re.search("pass|secret|key", k) else v) for k, v in parse_qsl(parts.query, True)]
        return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/:")))
    except ValueError:
        return "(no URL)"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def default(name: str) -> Any:
    """What a setting is where nobody has set it."""
    return Settings.model_fields[name].get_default(call_default_factory=True)


def load(flags: Mapping[str, Any] | None = None, *, config: Path | None = None, strict: bool = False) -> Settings:
    """The settings in force. `flags` are values from the command line by name, None for one that was not given.

    `strict` also refuses variables KARTINA_... that are no setting. Raises ConfigError.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    file, named = _file(config)
    sources: list[PydanticBaseSettingsSource] = [
        InitSettingsSource(Settings, given),
        EnvSettingsSource(Settings),
        *([TomlConfigSettingsSource(Settings, file)] if _readable(file, named) else []),
    ]
    names: list[Callable[[str], str]] = [lambda name: f"--{name.replace('_', '-')}", variable, lambda name: str(file)]
    told: dict[str, str] = {}
    values: dict[str, Any] = {}
    for source, where in zip(sources, names, strict=False):
        for name, value in source().items():
            if name == "home" and where(name) == str(file):
                raise ConfigError(f"Found home in {file}; expected it in the environment. Set KARTINA_HOME instead.")
            if name not in values:
                values[name], told[name] = value, where(name)
    if strict:
        _refuse_unknown_variables()
    try:
        found = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, told, file)) from None
    found._sources.update(told)
    return found


def _file(config: Path | None) -> tuple[Path, bool]:
    """The file of settings, and whether somebody has named it."""
    named = str(config) if config is not None else os.environ.get(WHERE)
    return (Path(named).expanduser().absolute(), True) if named else (home() / FILE, False)


def _readable(file: Path, named: bool) -> bool:
    """Whether there is such a file. Raises ConfigError for one that is named and cannot be read, or is no TOML."""
    import tomllib

    try:
        with file.open("rb") as opened:
            tomllib.load(opened)
        return True
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Found {file}, which is not TOML ({error}); expected lines such as port = 8765.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"Found {file}, which is not UTF-8 text; expected lines such as port = 8765.") from None
    except FileNotFoundError:
        if named:
            raise ConfigError(f"Found no settings at {file}, which --config or {WHERE} names.") from None
        return False
    except OSError as error:
        raise ConfigError(f"Found settings at {file} that cannot be read ({error.strerror}).") from None


def _refuse_unknown_variables() -> None:
    known = [WHERE, *CLIENTS, *map(variable, Settings.model_fields)]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            raise ConfigError(f"Found the environment variable {name}, which is no setting.{_instead(name, known)}")


def _explain(error: ValidationError, told: Mapping[str, str], file: Path) -> str:
    """One sentence for the first wrong value."""
    wrong = error.errors()[0]
    name = str(wrong["loc"][0])
    if wrong["type"] == "extra_forbidden":
        return f"Found the key {name!r} in {file}, which is no setting.{_instead(name, list(Settings.model_fields))}"
    field = Settings.model_fields[name]
    value = "a value" if name in ("secret", "database") else repr(wrong["input"])
    return f"Found {told.get(name, name)} with {value}; {wrong['msg'].lower()}. {name}: {field.description}."


def _instead(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else f" Expected one of: {', '.join(known)}."
