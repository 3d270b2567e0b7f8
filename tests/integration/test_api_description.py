"""What is served below /v1 is what the description says: schemathesis asks a gateway that runs whatever it allows, and
what it does not allow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from injected import ALL, InjectionSite
from parts import Gateway
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

_CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


#: The same for each operation, and each time.
_few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def _ask(case: Case[Any]) -> None:
    case.call_and_validate(checks=list(_CHECKS), headers={"Authorization": f"Bearer {ALL}"}, timeout=60)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_answers_are_as_described(base: Path, build: Callable[[str, int], Gateway], mode: GenerationMode) -> None:
    site = InjectionSite(base, build).start()
    url = f"http://127.0.0.1:{site.http}/v1"
    description = openapi.from_url(f"{url}/openapi.json")
    description.config.update(base_url=url)
    description.config.generation.update(modes=[mode])
    seen = []
    for found in description.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        seen.append(operation.label)
        asked = given(case=operation.as_strategy(generation_mode=mode))(lambda case: _ask(case))
        _few(asked)()
    assert "POST /messages" in seen
    assert site.ask("GET", "/readyz")[0] == 200
