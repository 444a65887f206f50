import base64
import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import Response
from fastapi_offline import FastAPIOffline
from test_gated_app import serving

from service.security.headers import SecurityHeaders, page_policy


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    app = FastAPIOffline()

    @app.get("/own")
    async def own() -> Response:
        return Response(b"{}", headers={"X-Content-Type-Options": "own", "Referrer-Policy": "origin"})

    @app.get("/inline")
    async def inline() -> Response:
        return Response("<script>steal()</script>", media_type="text/html")

    with serving(SecurityHeaders(app)) as http:
        yield http


def test_every_answer_says_that_nothing_in_it_may_run(http: httpx.Client) -> None:
    for path in ("/openapi.json", "/nowhere", "/inline", "/static-offline-docs/swagger-ui.css"):
        headers = http.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "strict-transport-security" not in headers


def test_headers_of_a_route_s_own_stay(http: httpx.Client) -> None:
    headers = http.get("/own").headers
    assert headers.get_list("x-content-type-options") == ["own"]
    assert headers.get_list("referrer-policy") == ["origin"]


def directives(policy: str) -> dict[str, list[str]]:
    return {name: values for name, *values in (directive.split() for directive in policy.split("; "))}


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect"])
def test_pages_may_run_their_own_scripts_and_no_others(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    policies = response.headers.get_list("content-security-policy")
    assert len(policies) == 1
    allowed = directives(policies[0])
    inline = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    assert len(inline) == 1
    digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
    assert allowed["script-src"] == ["'self'", f"'sha256-{digest}'"]
    assert allowed["default-src"] == allowed["frame-ancestors"] == ["'none'"]
    sources = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    assert all(source.startswith("/") for source in sources)
    assert int(response.headers["content-length"]) == len(response.content)


def test_documentation_page_has_what_its_policy_allows(http: httpx.Client) -> None:
    """The style of the page is within its elements, its pictures are data: both must be allowed, or it looks broken."""
    allowed = directives(http.get("/docs").headers["content-security-policy"])
    assert allowed["style-src"] == ["'self'", "'unsafe-inline'"]
    assert allowed["img-src"] == ["'self'", "data:"]
    assert allowed["connect-src"] == ["'self'"]


def test_script_in_another_page_is_not_allowed(http: httpx.Client) -> None:
    assert "sha256" not in http.get("/inline").headers["content-security-policy"]


def test_scripts_with_a_source_have_no_hash() -> None:
    assert "sha256" not in page_policy(b"<script src='/a.js'></script><p>script</p>")
    assert page_policy(b"<script>a</script><script src='x'></script><script>b &amp; c</script>").count("sha256-") == 2
