import re

import pytest

from service.app import create_app
from service.security.roles import ACCESS, Role, least_role


@pytest.mark.parametrize("rule", ACCESS)
def test_table_is_what_is_looked_up(rule: str) -> None:
    method, path = rule.split(" ")
    assert least_role(method, re.sub(r"\{\w+\}", "x-1", path)) is ACCESS[rule]


def test_every_route_of_the_application_is_in_the_table() -> None:
    app = create_app()
    served = {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}
    served |= {
        f"GET {path}"
        for route in app.routes
        if (path := getattr(route, "path", None)) and "GET" in (getattr(route, "methods", None) or ())
    }
    listed = {re.sub(r"\{\w+\}", "{}", rule) for rule in ACCESS}
    assert "POST /v1/inspections" in served
    assert "GET /docs" in served
    assert {re.sub(r"\{\w+\}", "{}", route) for route in served} <= listed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/inspections"),
        ("POST", "/v1/inspections/"),
        ("POST", "//v1/inspections"),
        ("post", "/v1/inspections"),
        ("GET", "/v1/inspections\n"),
        ("GET", "/v1/inspections//image"),
        ("GET", "/v1/inspections/a/b/image"),
        ("GET", "/v1/inspections/../recipes"),
        ("GET", "/static-offline-docs/../../etc/passwd"),
        ("GET", "/livez/x"),
        ("GET", "/metrics/"),
        ("GET", "/admin"),
        ("GET", ""),
        ("GET", "/" * 10_000),
    ],
)
def test_what_is_not_listed_takes_the_highest_role(method: str, path: str) -> None:
    assert least_role(method, path) is Role.ENGINEER


def test_head_is_get() -> None:
    assert least_role("HEAD", "/openapi.json") is Role.ANYONE
    assert least_role("HEAD", "/v1/inspections/x/image") is Role.LINE
    assert least_role("HEAD", "/v1/recipes/x/activate") is Role.ENGINEER


def test_nothing_that_changes_verdicts_is_below_the_engineer() -> None:
    changing = {rule for rule in ACCESS if re.search(r"activate|POST /v1/recipes", rule)}
    assert len(changing) == 5
    assert {ACCESS[rule] for rule in changing} == {Role.ENGINEER}


def test_only_probes_and_documentation_need_no_key() -> None:
    free = {rule for rule, role in ACCESS.items() if role is Role.ANYONE}
    assert all(re.match(r"GET /(livez|readyz|docs|openapi\.json|static-offline-docs)", rule) for rule in free)
