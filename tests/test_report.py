"""The report: complete without a network, and deaf to what candidates say. In Chromium where there is one."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_run import ARMS, write_run

from mucode_agent.evaluation.report import TEXT_CHARS, write_report
from mucode_agent.evaluation.tables import for_markdown, for_terminal, tables

ATTACK = (
    "\n# </script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    "<!--<script> \u2028 ${document.title='pwned'} {{ 7 * 7 }}\n"
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The page of a run whose every candidate tries to become HTML."""
    directory = write_run(tmp_path_factory.mktemp("attacked") / "run", count=8, extra=ATTACK)
    results, page = write_report(directory)
    return results, page


class Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def dom(page, tmp_path, *, fragment="", budget=4000):
    """The page's DOM as Chromium leaves it after its scripts."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --no-proxy-server --host-resolver-rules=MAP\x00*\x00~NOTFOUND"
    command = [CHROMIUM, *(flag.replace("\x00", " ") for flag in flags.split(" "))]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--virtual-time-budget={budget}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri() + fragment], capture_output=True, timeout=200, check=True)
    return done.stdout.decode()


# --- what is in it -------------------------------------------------------------------------------------------------


def test_the_page_asks_nothing_of_the_network(attacked):
    text = attacked[1].read_text()
    body = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)

    elements = Elements(body).found
    assert not [attrs for tag, attrs in elements if tag in ("link", "iframe", "object", "embed", "img", "base")]
    assert not [attrs for tag, attrs in elements if "src" in attrs]
    references = [value for _, attrs in elements for name, value in attrs.items() if name in ("href", "xlink:href")]
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert "@import" not in body
    assert "url(" not in re.sub(r"url\(#", "", body)


def test_the_policy_allows_the_pages_own_script_and_no_other(attacked):
    text = attacked[1].read_text()

    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    policy = next(a["content"] for t, a in Elements(text).found if a.get("http-equiv") == "Content-Security-Policy")

    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.partition("style-src")[0]


def test_no_text_of_a_candidate_is_markup(attacked):
    text = attacked[1].read_text()
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL).group(1)

    assert "<" not in embedded
    assert "document.title='pwned'" not in text.replace(embedded, "")
    data = json.loads(embedded)
    assert any(ATTACK in shown for shown in data["texts"])


def test_text_in_the_configuration_is_escaped(tmp_path):
    model = "</title><script>alert(1)</script>"
    directory = write_run(tmp_path / "run", count=2, model=model, command="run <b onclick=alert(1)>&")

    text = write_report(directory)[1].read_text()

    assert "<b onclick" not in text
    assert "<script>alert" not in text
    assert "&lt;b onclick=alert(1)&gt;&amp;" in text


def test_the_page_tells_how_the_run_can_be_repeated(attacked):
    results, page = attacked
    text = page.read_text()

    assert results.identity.benchmark_sha256 in text
    for words in ("python -m mucode_agent evaluate run made-up", "2026-01-02T03:04:05", "digest 0123456789ab", "seed"):
        assert words in text


def test_private_tests_are_not_in_the_page(tmp_path):
    directory = write_run(tmp_path / "run", count=2)

    text = write_report(directory)[1].read_text()

    assert "assert f(2) == 2" in text
    assert "assert f(3) == 3" not in text


def test_every_candidate_of_every_arm_is_in_the_page(attacked):
    _, page = attacked
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), flags=re.DOTALL).group(1))

    assert data["arms"] == [arm.name for arm in ARMS]
    for problem in data["problems"]:
        assert len(problem["arms"]["independent"]["candidates"]) == 15
        assert all(card["right"] in (True, False) for card in problem["arms"]["turns"]["candidates"])
        turn, index = problem["arms"]["turns"]["answer"]
        assert any((card["turn"], card["index"]) == (turn, index) for card in problem["arms"]["turns"]["candidates"])


def test_a_huge_reply_is_cut_in_the_page_and_kept_on_disk(tmp_path):
    directory = write_run(tmp_path / "run", count=1, extra="#" * 100_000)

    page = write_report(directory)[1]

    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), flags=re.DOTALL).group(1))
    assert max(map(len, data["texts"])) < TEXT_CHARS + 100
    assert any(text.endswith("more characters)") for text in data["texts"])
    assert "#" * 100_000 in next(directory.glob("shards/*/*.json")).read_text()


def test_an_unfinished_run_says_so(tmp_path):
    directory = write_run(tmp_path / "run", count=4)
    next(directory.glob("shards/*/*.json")).unlink()

    text = write_report(directory)[1].read_text()

    assert "3 of 4 problems" in text
    assert "1 unfinished" in text


# --- tables --------------------------------------------------------------------------------------------------------


def test_every_accuracy_stands_with_its_interval(attacked):
    interval = re.compile(r"^\d+\.\d \[\d+\.\d, \d+\.\d\]$")

    for table in tables(attacked[0])[:3]:
        for row in table.rows:
            assert all(interval.match(cell) for cell in row[1:]), row


def test_every_row_of_every_table_has_a_cell_per_column(attacked):
    for table in tables(attacked[0]):
        assert all(len(row) == len(table.columns) for row in table.rows), table.title


def test_markdown_has_a_line_per_row_and_no_stray_bars(attacked):
    table = tables(attacked[0])[0]

    lines = [line for line in for_markdown(table).splitlines() if line.startswith("|")]

    assert len(lines) == len(table.rows) + 2
    assert {line.count("|") for line in lines} == {len(table.columns) + 1}


def test_the_terminal_shows_square_brackets_of_names_as_they_are(attacked):
    from rich.console import Console

    table = tables(attacked[0])[0].model_copy(update={"rows": (("[bold]name[/bold]", "1", "2", "3", "4", "5"),)})
    console = Console(width=160, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        console.print(for_terminal(table))
        assert "[bold]name[/bold]" in console.export_text()


# --- in a browser --------------------------------------------------------------------------------------------------


@needs_chromium
def test_in_chromium_candidates_are_text_and_run_nothing(attacked, tmp_path):
    shown = dom(attacked[1], tmp_path)

    assert "<title>made-up · made-up-model</title>" in shown
    article = re.search(r'<article id="problem".*?</article>', shown, flags=re.DOTALL).group(0)
    assert "&lt;/script&gt;&lt;script&gt;document.title='pwned'&lt;/script&gt;" in article
    assert "<img" not in article
    assert "<script" not in article
    assert len(re.findall(r'class="card(?: selected)?"', article)) == 5


@needs_chromium
def test_in_chromium_a_link_opens_its_problem_turn_by_turn(attacked, tmp_path):
    shown = dom(attacked[1], tmp_path, fragment="#problem=Made%2F3")

    article = re.search(r'<article id="problem".*?</article>', shown, flags=re.DOTALL).group(0)
    assert "<h3>Made/3</h3>" in article
    assert "Turn 1 · 5 candidates" in article
    assert 'class="decision"' in article
    assert ">answer<" in article
    assert shown.count("<li>") == 8


@needs_chromium
def test_in_chromium_164_problems_of_15_candidates_open(tmp_path):
    directory = write_run(tmp_path / "run", count=164)

    shown = dom(write_report(directory)[1], tmp_path, fragment="#problem=Made%2F163")

    assert "<h3>Made/163</h3>" in shown
    assert shown.count("<li>") == 164
    assert len(re.findall(r'class="card(?: selected)?"', shown)) <= 15  # one problem's cards at a time
