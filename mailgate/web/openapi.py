"""What is served below /v1, described for programs (OpenAPI 3.1): from the models that it is read and written by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from mailgate.interfaces import Grouping
from mailgate.web import models, quarantine_models, suppression_models
from mailgate.web.injection.models import Accepted, Followed, Order, Refusal
from mailgate.web.rate_models import RateQuery, RatesNow
from mailgate.web.selection import Action, Change, Resume, Selection, Suspend

__all__ = ["openapi"]

_JSON = "application/json"
_REFERENCE = "#/components/schemas/{model}"
_Model = type[BaseModel]


class _Way(NamedTuple):
    """One thing that can be asked; `query` are parameters by name, and `failures` what is answered but `status`."""

    method: str
    path: str
    summary: str
    scope: str
    answer: _Model
    order: _Model | None = None
    query: Mapping[str, Mapping[str, object]] = {}
    status: int = 200
    failures: Mapping[int, _Model] = {}


_PAGED: Mapping[str, Mapping[str, object]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "after": {"type": "string", "pattern": r"^([A-Za-z0-9]+:[0-9]+)?$"},
}
#: `after` is the address and the scope of the last one.
_SUPPRESSED: Mapping[str, Mapping[str, object]] = {
    "limit": _PAGED["limit"],
    **{name: {"type": "string"} for name in ("after", "address", "scope", "reason")},
}
_TIMES: Mapping[int, _Model] = {400: models.Problem, 503: models.Problem}
_ONE: Mapping[int, _Model] = {404: models.Problem, 503: models.Problem}
_TAKING: Mapping[int, _Model] = dict.fromkeys((400, 403, 413, 415, 422, 429, 503), Refusal)


def _ways() -> Sequence[_Way]:
    conditions = _fields(Selection)
    kept = {**conditions, **_PAGED, "limit": {"type": "integer", "minimum": 1, "maximum": 1000}}
    grouped = {**conditions, "limit": _PAGED["limit"], "by": {"type": "string", "enum": list(get_args(Grouping))}}
    quarantine = quarantine_models
    return [
        _Way("get", "/status", "The daemon", "status", models.Status),
        _Way("get", "/queue", "The queue", "queue:read", models.Page, query={**conditions, **_PAGED}, failures=_TIMES),
        _Way("get", "/queue/{id}", "One message in the queue", "queue:read", models.Shown, failures=_ONE),
        *(
            _Way(
                "post",
                f"/queue/{one}",
                f"{one.title()} entries",
                "queue:write",
                models.Changed,
                Change,
                failures=_TIMES,
            )
            for one in get_args(Action)
        ),
        _Way("get", "/summary", "Counts", "queue:read", models.Groups, query=grouped, failures=_TIMES),
        _Way("get", "/sites", "Sites", "queue:read", models.Sites, query=conditions, failures=_TIMES),
        _Way("get", "/rates", "The last hour", "queue:read", RatesNow, query=_fields(RateQuery), failures=_TIMES),
        _Way("get", "/suspensions", "Suspensions", "queue:read", models.Suspensions, failures={503: models.Problem}),
        _Way(
            "post",
            "/suspensions/suspend",
            "Suspend deliveries",
            "queue:write",
            models.SuspensionNow,
            Suspend,
            failures=_TIMES,
        ),
        _Way(
            "post", "/suspensions/resume", "Resume deliveries", "queue:write", models.Resumed, Resume, failures=_TIMES
        ),
        _Way(
            "get",
            "/quarantine",
            "What is kept back",
            "quarantine:read",
            quarantine.KeptPage,
            query=kept,
            failures=_TIMES,
        ),
        _Way("get", "/quarantine/{id}", "One of it", "quarantine:read", quarantine.KeptShown, failures=_ONE),
        _Way(
            "post",
            "/quarantine/release",
            "Release mail",
            "quarantine:write",
            quarantine.Released,
            quarantine.ReleaseOrder,
            failures=_TIMES,
        ),
        _Way(
            "post",
            "/quarantine/delete",
            "Delete mail",
            "quarantine:write",
            quarantine.Deleted,
            quarantine.DeleteOrder,
            failures=_TIMES,
        ),
        _Way(
            "post",
            "/quarantine/rescan",
            "Ask the filters again",
            "quarantine:write",
            quarantine.Rescanned,
            quarantine.RescanOrder,
            failures=_TIMES,
        ),
        _Way(
            "get",
            "/suppressions",
            "Who gets nothing more",
            "suppressions:read",
            suppression_models.SuppressedPage,
            query=_SUPPRESSED,
            failures=_TIMES,
        ),
        _Way(
            "post",
            "/suppressions/add",
            "Put addresses on the list",
            "suppressions:write",
            suppression_models.SuppressionCount,
            suppression_models.SuppressionOrder,
            failures=_TIMES,
        ),
        _Way(
            "post",
            "/suppressions/remove",
            "Take an address off the list",
            "suppressions:write",
            suppression_models.SuppressionCount,
            suppression_models.Unsuppress,
            failures=_TIMES,
        ),
        _Way("post", "/messages", "Hand in mail", "send", Accepted, Order, status=202, failures=_TAKING),
        _Way(
            "get",
            "/messages",
            "What a call was answered",
            "send",
            Accepted,
            query={"idempotency_key": {"type": "string", "minLength": 1}},
            failures={400: Refusal, 404: models.Problem, 409: Refusal, 503: models.Problem},
        ),
        _Way("get", "/messages/{id}", "Where a message is", "send", Followed, failures=_ONE),
    ]


def openapi() -> Mapping[str, object]:
    """The document."""
    ways = _ways()
    kinds: dict[tuple[_Model, JsonSchemaMode], None] = {}
    for way in ways:
        told: list[_Model] = [way.answer, models.Problem, *way.failures.values()]
        kinds.update({(one, "serialization"): None for one in told})
        if way.order is not None:
            kinds[way.order, "validation"] = None
    places, definitions = models_json_schema(list(kinds), ref_template=_REFERENCE)
    paths: dict[str, dict[str, object]] = {}
    for way in ways:
        paths.setdefault(way.path, {})[way.method] = _operation(way, places)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mailgate", "version": version("mailgate"), "summary": "The API of a mail gateway"},
        "servers": [{"url": "/v1"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(way: _Way, places: Mapping[tuple[Any, JsonSchemaMode], Any]) -> Mapping[str, object]:
    parameters: list[Mapping[str, object]] = []
    if "{id}" in way.path:
        schema = {"type": "string", "pattern": "^[A-Za-z0-9]{1,32}$"}
        parameters.append({"name": "id", "in": "path", "required": True, "schema": schema})
    for name, schema_of in way.query.items():
        parameters.append({"name": name, "in": "query", "required": way.path == "/messages", "schema": schema_of})
    responses: dict[str, object] = {str(way.status): _response("Done", places[way.answer, "serialization"])}
    failures: dict[int, _Model] = {401: models.Problem, 403: models.Problem, 429: models.Problem, **way.failures}
    for status, model in sorted(failures.items()):
        told = places[model, "serialization"]
        if status in (403, 429) and model is Refusal:
            told = {"anyOf": [told, places[models.Problem, "serialization"]]}
        responses[str(status)] = _response("Not done", told)
    found: dict[str, object] = {
        "operationId": f"{way.method}{way.path.replace('/', '_').replace('{id}', 'one')}",
        "summary": way.summary,
        "description": f"For tokens with the scope {way.scope}.",
        "responses": responses,
    }
    if way.path == "/messages" and way.method == "post":
        key = {"type": "string", "pattern": "^[!-~]{1,200}$"}
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": key})
    if parameters:
        found["parameters"] = parameters
    if way.order is not None:
        content: dict[str, object] = {_JSON: {"schema": places[way.order, "validation"]}}
        if way.path == "/messages":
            content["message/rfc822"] = {"schema": {"type": "string", "format": "binary"}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _response(text: str, schema: object) -> Mapping[str, object]:
    return {"description": text, "content": {_JSON: {"schema": schema}}}


def _fields(model: _Model) -> Mapping[str, Mapping[str, object]]:
    """Parameters for the fields of a model."""
    properties: Mapping[str, Any] = model.model_json_schema()["properties"]
    return {name: {key: value for key, value in one.items() if key != "default"} for name, one in properties.items()}
