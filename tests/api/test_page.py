"""The web page and its files: who gets them, with which headers, and below which prefix."""

import re

import httpx
import pytest

from app.api.web.page import FOLDER
from tests.api.fakes import Scripted, fake_app, serving
from tests.http_options import LOCAL

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
REFERENCE = re.compile(r'(?:src|href)="([^"#]+)"')


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_root_lists_the_routes_for_programs(client: httpx.Client, accept: str) -> None:
    reply = client.get("/", headers={"Accept": accept})
    assert reply.json()["name"] == "LLM server"
    assert reply.headers["vary"] == "Accept"


def test_root_is_the_page_for_browsers(client: httpx.Client) -> None:
    reply = client.get("/", headers={"Accept": BROWSER})
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.text == client.get("/ui").text
    assert "Accept" in reply.headers["vary"]


def test_page_allows_no_other_site_and_no_script_in_it(client: httpx.Client) -> None:
    reply = client.get("/ui")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["trusted-types"] == "'none'"
    sources = {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src", "font-src")}
    assert sources == {"'self'"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<style|style=|<script>|\son\w+=", reply.text)


@pytest.mark.parametrize("prefix", ["", "/llm"])
@pytest.mark.parametrize("place", ["/", "/ui"])
def test_page_finds_its_files_below_any_prefix(prefix: str, place: str) -> None:
    with (
        serving(fake_app(Scripted()), root_path=prefix) as url,
        httpx.Client(base_url=url, **LOCAL) as client,
    ):
        page = client.get(place, headers={"Accept": BROWSER})  # the proxy takes the prefix away
        names = REFERENCE.findall(page.text)
        assert "ui/main.js" in names
        for name in names:
            address = httpx.URL(f"http://proxy{prefix}{place}").join(name).path
            assert client.get(address.removeprefix(prefix)).status_code == 200, name


def test_slash_after_the_page_is_taken_away(client: httpx.Client) -> None:
    assert client.get("/ui/", follow_redirects=True).url.path == "/ui"


def test_files_are_not_sent_again_unless_they_changed(client: httpx.Client) -> None:
    first = client.get("/ui/main.js")
    again = client.get("/ui/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")


def test_files_are_compressed_and_answer_head(client: httpx.Client) -> None:
    name = "/ui/vendor/temml/temml.min.js"
    reply = client.get(name, headers={"Accept-Encoding": "gzip"})
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.content == (FOLDER / "vendor/temml/temml.min.js").read_bytes()
    head = client.head(name)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/ui/nothing.js", "/ui/../main.py", "/ui/..%2fmain.py", "/ui/core"])
def test_no_other_file_is_served(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_page_is_not_written_to(client: httpx.Client) -> None:
    assert client.post("/ui/main.js").status_code == 405
