"""S4: the service against its own OpenAPI: every answer is one that it announces, and none is a server error."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

pytest.importorskip("fastapi", reason="the page needs the extra 'web'")
schemathesis = pytest.importorskip("schemathesis", reason="the fuzz needs schemathesis (extra dev)")


@pytest.mark.parametrize("cases", [6, pytest.param(270, marks=pytest.mark.slow)])
def test_s4_every_answer_is_one_that_is_announced(plain: Any, cases: int, figure: Any) -> None:
    from schemathesis.specs.openapi import checks

    promises = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{plain.port}/openapi.json")
    operations = [(found.ok(), mode) for found in schema.get_all_operations() for mode in schemathesis.GenerationMode]
    assert len(operations) == 2 * 18
    asked: list[int] = []
    for operation, mode in operations:

        @settings(max_examples=cases, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call()
            asked.append(answer.status_code)
            assert answer.status_code < 500 or answer.status_code == 503, case.as_curl_command()
            case.validate_response(answer, checks=promises)

        try:
            ask()
        except Unsatisfiable:
            assert mode.value == "negative", "nothing breaks a schema that takes any string"
    assert {200, 202, 404, 422} <= set(asked) and len(asked) > 15 * cases
    figure(f"schema fuzz: {len(asked)} cases, answers {dict(sorted(Counter(asked).items()))}")
