"""The built book in a real browser: links, pictures, formulas, width, console, requests; the explorer against the tables.

`make booktest` builds the book and runs this with the book's own packages; elsewhere it is skipped.
"""

import re
import shutil
import struct
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright opens the book: run make booktest")

ROOT = Path(__file__).resolve().parents[1]
BOOK, RESULTS = ROOT / "build" / "book", ROOT / "data" / "results"
HOST = "http://book.test/study/"  # answered from BOOK and from nowhere else; below a path, as published
BROWSER = {"executable_path": shutil.which("chromium")} if shutil.which("chromium") else {"channel": "chrome"}
PAGES = sorted(str(path.relative_to(BOOK)) for path in BOOK.rglob("*.html") if "_static" not in path.parts)
WIDTHS = (1100, 390)

pytestmark = pytest.mark.skipif(not PAGES, reason="build/book is missing: run make booktest")

LOOK = r"""async () => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  all('details').forEach(box => box.open = true);
  all('img').forEach(image => image.loading = 'eager');
  await Promise.all([window.MathJax?.startup?.promise, ...all('img').map(image => image.decode().catch(() => 0))]);
  const edge = document.documentElement.clientWidth, wide = () => document.documentElement.scrollWidth > edge;
  for (let n = 0; n < 20 && wide(); n++) await new Promise(done => setTimeout(done, 50));  // a chart follows the width
  const scroller = box => !box || /auto|scroll/.test(getComputedStyle(box).overflowX) ? box : scroller(box.parentElement);
  const cut = element => {
    const {left, right, width} = element.getBoundingClientRect(), box = scroller(element.parentElement);
    return width && (box ? left < box.getBoundingClientRect().left - 1 : left < -1 || right > edge + 1);
  };
  return {
    links: all('a[href]').map(link => link.href),
    faults: [
      ...all('img').filter(image => !image.naturalWidth).map(image => 'broken image ' + image.src),
      ...all('.math').filter(span => !all('mjx-container', span).length).map(span => 'bare formula ' + span.textContent),
      ...all('.bd-article p').filter(p => /\$.*\\.*\$/.test(p.textContent)).map(p => 'bare formula ' + p.textContent),
      ...all('mjx-merror').map(span => 'wrong formula ' + span.textContent),
      ...(wide() ? ['the page scrolls sideways'] : []),
      ...all('.bd-article *').filter(cut).map(element => 'cut off ' + element.outerHTML.slice(0, 80)),
    ],
  };
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(**BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    tab = browser.new_page()
    yield tab
    tab.close()


def faults(tab, name, body=None):
    """What is wrong with a page, in words; `body` stands in for a page that the book does not hold."""
    found = []

    def answer(route):
        url = route.request.url
        path = BOOK / unquote(urlsplit(url).path.removeprefix("/study/"))
        if body and url == HOST + name:
            return route.fulfill(body=body, content_type="text/html")
        if url.startswith(HOST) and path.is_file():
            return route.fulfill(path=path)
        found.append(f"asks for {url}")
        route.abort()

    tab.route("**/*", answer)
    tab.on("console", lambda line: line.type in ("error", "warning") and found.append(f"console: {line.text}"))
    tab.on("pageerror", lambda error: found.append(f"error: {error}"))
    tab.goto(HOST + name)
    tab.add_style_tag(content="* { transition: none !important }")  # a sidebar slides where the width changes
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        seen = tab.evaluate(LOOK)
        found += [f"at {width} px: {fault}" for fault in seen["faults"]]
    for link in filter(re.compile(re.escape(HOST)).match, set(seen["links"])):
        address, _, anchor = link.removeprefix(HOST).partition("#")
        path = BOOK / (address.partition("?")[0] or "index.html")
        text = path.read_bytes() if path.is_file() else (body or "").encode() if address == name else b""
        if not text or (anchor and f'id="{anchor}"'.encode() not in text):
            found.append(f"dead link {link}")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault(tab, name):
    assert faults(tab, name) == []
    assert tab.title()


@pytest.mark.parametrize(
    ("word", "body"),
    [
        ("broken image", "<img src=none.png>"),
        ("bare formula", "<span class=math>x</span>"),
        ("bare formula", r"<div class=bd-article><p>$\frac{1}{2}$"),
        ("scrolls sideways", "<table style='width: 2000px'><td>wide"),
        ("cut off", "<div style='overflow: clip'><div class=bd-article><pre style='width: 2000px'>wide"),
        ("cut off", "<div class=bd-article style='overflow: auto'><p style='margin-left: -99px'>left"),
        ("asks for http://elsewhere.test/", "<script src=http://elsewhere.test/code.js></script>"),
        ("asks for http://book.test/data", "<a href=/data/README.html>not below the book</a><img src=/data/a.png>"),
        ("dead link", "<a href=no_such_page.html>gone</a>"),
        ("dead link", "<a href=index.html#no-such-place>gone</a>"),
        ("console", "<script>console.error('no')</script>"),
        ("error: no", "<script>throw Error('no')</script>"),
    ],
)
def test_each_fault_is_found(tab, word, body):
    assert word in str(faults(tab, "fault.html", f"<!DOCTYPE html><title>A page with a fault</title>{body}"))


def test_a_picture_of_a_page_has_the_page_s_size(tab):
    assert faults(tab, "notebooks/00_primer.html") == []
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        height = tab.evaluate("document.documentElement.scrollHeight")
        assert struct.unpack(">II", tab.screenshot(full_page=True)[16:24]) == (width, height)
        assert height > 5000  # a chapter, not an empty page


def test_the_explorer_s_file_alone_says_what_the_tables_say(tab):
    tab.goto((BOOK / "explorer.html").as_uri())
    boxes, chart = tab.locator(".vega-bind select"), tab.locator("#vis svg")

    def choose(*values):
        for number, value in enumerate(values):
            boxes.nth(number).select_option(label=str(value))

    for folder in sorted(path.parent for path in RESULTS.glob("*/05_budget_sweep.csv")):
        names = ("05_budget_sweep", "05_model_counts", "07_peers")
        sweep, counts, peers = (pd.read_csv(folder / f"{name}.csv") for name in names)
        peers["method"] = "07 " + peers["method"] + ", " + peers["fitted_on"]
        tables = [
            sweep[sweep["bytes_per_vector"] == 32].assign(members="all"),
            counts[counts["members"] == "2"],
            peers[peers["factor"] == 48].assign(members="all", scoring="asymmetric"),
        ]
        for row in pd.concat(table.sample(4, random_state=0) for table in tables).itertuples():
            choose(folder.name, row.task, row.method, row.members, row.scoring, row.bytes_per_vector)
            words = f"Retention {row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]nDCG@10 {row.ndcg_at_10:.3f}"
            words += f" at {row.bytes_per_vector} bytes{row.bytes_per_vector} MB for a million documents"
            sync_api.expect(chart).to_contain_text(words)
    choose(folder.name, "macro mean", "PCA", "1", "symmetric", 32)
    sync_api.expect(chart).to_contain_text("Not measured for this choice.")


def test_the_explorer_needs_no_mouse(tab):
    tab.goto((BOOK / "explorer.html").as_uri())
    chart, names = tab.locator("#vis svg"), tab.locator(".vega-bind-name").all_inner_texts()
    before, box = chart.text_content(), "document.activeElement.closest('.vega-bind')"
    assert len(names) == 6
    for name in names:
        tab.keyboard.press("Tab")
        assert tab.evaluate(f"{box}.querySelector('.vega-bind-name').innerText") == name
    tab.keyboard.press("ArrowUp")  # in the last box: fewer bytes
    assert tab.evaluate(f"{box}.querySelector('select').value") != "128"
    sync_api.expect(chart).not_to_have_text(before)
