"""The gateway against requests that schemathesis makes of its own description; no node runs."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from cluster.gateway.app import Gateway
from cluster.gateway.guard import Admission
from cluster.gateway.served import Served
from cluster.home import Home

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

pytestmark = pytest.mark.slow

app = Gateway(Served(Home(Path("/nonexistent/moe-cluster"))), Admission(None, ["testserver"])).app()
schema = schemathesis.openapi.from_asgi("/openapi.json", app)

CHECKS = [
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
]


@schema.parametrize()
@settings(
    max_examples=20, phases=[Phase.generate], derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_what_the_description_allows_is_answered_as_it_says(case: "schemathesis.Case") -> None:
    response = case.call()
    assert response.status_code != 500
    case.validate_response(response, checks=CHECKS)
