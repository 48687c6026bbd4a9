"""Check controls against a package's JSON Schema, before a request is accepted.

The family's own model checks them again in the worker; this catches what a form or a script gets wrong, at once and
without torch. It knows the keywords that pydantic writes for flat models of numbers, switches, choices and texts, and
lets everything else pass to the worker.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from kartina.errors import ConfigError

_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}


def check_controls(given: Mapping[str, Any], schema: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with `given` over them. Raises ConfigError with one line for each wrong key and value."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    wrong = []
    for key, value in given.items():
        if key not in properties:
            near = difflib.get_close_matches(key, properties, n=1)
            have = ", ".join(properties) or "none"
            wrong.append(
                f"controls.{key}: no such control; there are: {have}." + (f" Did you mean {near[0]!r}?" if near else "")
            )
        elif problem := _problem(value, properties[key], schema):
            wrong.append(f"controls.{key}: {problem}")
    wrong += [f"controls.{key}: missing" for key in schema.get("required", []) if key not in {**defaults, **given}]
    if wrong:
        raise ConfigError(f"Found controls that cannot be used: {'; '.join(wrong)}", details=wrong)
    return {**defaults, **given}


def _problem(value: Any, rule: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What is wrong with the value, or ""."""
    if "$ref" in rule:
        name = str(rule["$ref"]).removeprefix("#/$defs/")
        return _problem(value, root.get("$defs", {}).get(name, {}), root)
    if "anyOf" in rule:
        found = [_problem(value, option, root) for option in rule["anyOf"]]
        return "" if "" in found else found[0]
    if "enum" in rule and value not in rule["enum"]:
        return f"expected one of {', '.join(map(repr, rule['enum']))}, found {value!r}"
    if "const" in rule and value != rule["const"]:
        return f"expected {rule['const']!r}, found {value!r}"
    kind = rule.get("type")
    if isinstance(kind, str) and not _is(value, kind):
        return f"expected {'an' if kind[0] in 'aio' else 'a'} {kind}, found {value!r}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _bounds(value, rule)
    return ""


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def _bounds(value: float, rule: Mapping[str, Any]) -> str:
    step = rule.get("multipleOf", 1)
    for key, words, holds in (
        ("minimum", "at least", value >= rule.get("minimum", value)),
        ("exclusiveMinimum", "more than", value > rule.get("exclusiveMinimum", -math.inf)),
        ("maximum", "at most", value <= rule.get("maximum", value)),
        ("exclusiveMaximum", "less than", value < rule.get("exclusiveMaximum", math.inf)),
        ("multipleOf", "a multiple of", abs(math.remainder(value, step)) < 1e-9),
    ):
        if key in rule and not holds:
            return f"expected {words} {rule[key]}, found {value}"
    return ""
