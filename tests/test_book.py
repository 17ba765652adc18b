"""The built book in a real browser: links, pictures, width, console, requests; the explorer against the tables.

`make booktest` builds and runs this; without a build it is skipped.
"""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
BOOK, RESULTS = ROOT / "build" / "book", ROOT / "data" / "results"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
WIDTHS = (1100, 390)
PAGES = (
    sorted(str(path.relative_to(BOOK)) for path in BOOK.rglob("*.html") if "_static" not in path.parts)
    if BOOK.is_dir()
    else []
)

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="build/book is missing: run make book"),
    pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome to open the book with"),
]

WATCH = """
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
const open = async (page, width) => {
  const frame = Object.assign(document.createElement('iframe'), {src: '/' + page, width, height: 900});
  document.body.append(frame);
  await new Promise(done => frame.onload = done);
  const ready = n => page === 'explorer.html' ? frame.contentDocument.querySelector('svg text') : n > 1;
  for (let n = 0; n < 40 && !ready(n); n++) await wait(100);
  const formulas = frame.contentWindow.MathJax?.startup?.promise;
  if (formulas) await formulas;
  return frame;
};
const look = async (page, width) => {
  const frame = await open(page, width), inside = frame.contentDocument;
  inside.querySelectorAll('img').forEach(image => image.loading = 'eager');
  await Promise.all([...inside.images].map(image => image.decode().catch(() => {})));
  const seen = {
    page, width, title: inside.title, wide: inside.documentElement.scrollWidth - inside.documentElement.clientWidth,
    broken: [...inside.images].filter(image => image.offsetParent && !image.naturalWidth).map(image => image.src),
    formulas: [inside.querySelectorAll('.math').length, inside.querySelectorAll('mjx-container').length],
    links: [...inside.querySelectorAll('a[href]')].map(link => link.href),
    ids: [...inside.querySelectorAll('[id]')].map(element => element.id),
    asked: frame.contentWindow.performance.getEntriesByType('resource').map(entry => entry.name),
  };
  frame.remove();
  return seen;
};
const ask = async choices => {
  const frame = await open('explorer.html', 390), inside = frame.contentDocument, seen = [];
  const boxes = [...inside.querySelectorAll('.vega-bind select')];
  for (const values of choices) {
    for (const [n, box] of boxes.entries()) {
      box.focus();
      if (inside.activeElement !== box) throw Error('no focus');
      box.selectedIndex = [...box.options].findIndex(option => option.text === values[n]);
      box.dispatchEvent(new Event('input')), box.dispatchEvent(new Event('change'));
    }
    await wait(250);
    const lines = text => [...text.querySelectorAll('tspan')].map(line => line.textContent).join(' | ');
    seen.push([...inside.querySelectorAll('svg text')].map(lines).join(' '));
  }
  return seen;
};
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the book and, under /test.html, the page that opens its pages in frames."""

    script = ""

    def do_GET(self):
        if self.path != "/test.html":
            return super().do_GET()
        page = f"<!DOCTYPE html><body><script>{WATCH}({self.script})().catch(error => 'failed: ' + error)"
        page += ".then(seen => document.body.replaceChildren(Object.assign("
        page += "document.createElement('pre'), {textContent: JSON.stringify(seen)})))</script>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """A function: the body of an async arrow function -> what it returns, and the lines of the browser's console."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=BOOK))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(body):
        Quiet.script = f"async () => {{ {body} }}"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        options += ["--virtual-time-budget=600000", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        options += [f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "--window-size=1300,1000"]
        address = f"http://127.0.0.1:{server.server_port}/test.html"
        done = subprocess.run([BROWSER, *options, address], capture_output=True, text=True, timeout=300)
        text = re.search("<pre>(.*?)</pre>", done.stdout, re.DOTALL)
        assert text, done.stdout[-2000:] + done.stderr[-2000:]
        return json.loads(html.unescape(text[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    yield run
    server.shutdown()


@pytest.fixture(scope="module")
def looked(browse):
    """Every page at every width, and the console's lines."""
    pairs = json.dumps([(page, width) for page in PAGES for width in WIDTHS])
    return browse(f"const all = []; for (const pair of {pairs}) all.push(await look(...pair)); return all;")


def test_every_page_opens_without_a_console_error_or_another_host(looked):
    seen, console = looked
    assert [line for line in console if "INFO" not in line] == []
    assert len(seen) == len(PAGES) * len(WIDTHS) and all(page["title"] for page in seen)
    assert {
        name for page in seen for name in page["asked"] if not re.match(r"http://127\.0\.0\.1:|data:|blob:", name)
    } == set()


def test_no_page_is_wider_than_the_window_and_no_picture_is_broken(looked):
    assert {(page["page"], page["width"]): page["wide"] for page in looked[0] if page["wide"] > 0} == {}
    assert [page["broken"] for page in looked[0] if page["broken"]] == []


def test_every_formula_is_set(looked):
    counts = {page["page"]: page["formulas"] for page in looked[0]}
    assert sum(asked for asked, _ in counts.values()) > 20
    assert {name: pair for name, pair in counts.items() if pair[0] != pair[1]} == {}


def test_every_internal_link_leads_somewhere(looked):
    ids, broken = {page["page"]: set(page["ids"]) for page in looked[0]}, set()
    for page in looked[0]:
        for link in filter(re.compile(r"http://127\.0\.0\.1:").match, page["links"]):
            path, _, anchor = re.sub(r"^http://[^/]*/", "", link).partition("#")
            path = path.partition("?")[0] or "index.html"
            if not (BOOK / path).is_file() or (anchor and anchor not in ids.get(path, {anchor})):
                broken.add((page["page"], link))
    assert broken == set()


def test_the_explorer_says_what_the_tables_say(browse):
    choices, expected = [], []
    for folder in sorted(path.parent for path in RESULTS.glob("*/05_budget_sweep.csv")):
        sweep, counts, peers = (
            pd.read_csv(folder / f"{name}.csv") for name in ("05_budget_sweep", "05_model_counts", "07_peers")
        )
        picked = [
            (sweep[sweep["bytes_per_vector"] == 32].assign(members="all"), ""),
            (counts[counts["members"] == "2"], ""),
        ]
        picked += [(peers[peers["factor"] == 48].assign(members="all", scoring="asymmetric"), "07 ")]
        for table, prefix in picked:
            for row in table.sample(4, random_state=0).to_dict("records"):
                method = f"07 {row['method']}, {row['fitted_on']}" if prefix else row["method"]
                size = row["bytes_per_vector"]
                choices.append([folder.name, row["task"], method, row["members"], row["scoring"], str(size)])
                expected.append(
                    f"Retention {row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | nDCG@10 {row['ndcg_at_10']:.3f}"
                    f" at {size} bytes | {size} MB for a million documents"
                )
    choices.append([folder.name, "macro mean", "PCA", "1", "symmetric", "32"])
    expected.append("Not measured for this choice.")
    said, console = browse(f"return await ask({json.dumps(choices)});")
    assert console == []
    assert [
        (choice, text) for choice, text, words in zip(choices, said, expected, strict=True) if words not in text
    ] == []
