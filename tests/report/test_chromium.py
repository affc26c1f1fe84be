"""The page in a real browser: what it draws, asks for, and does at every width and on paper.

Skipped where no Chromium is installed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dst.core.results import Report
from dst.studies.compare import compare
from tests.report.chromium import Page, find_chromium
from tests.report.example import make_failure, make_report, make_suggestion
from tests.report.test_report_page import HOSTILE, hostile_report

BINARY = find_chromium()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed")

# The trace names that each figure of the page has drawn, from Plotly itself.
DRAWN = """[...document.querySelectorAll('[data-figure]')].map(plot => ({
  id: plot.dataset.figure,
  svgs: plot.querySelectorAll('svg.main-svg').length,
  lines: plot.querySelectorAll('.scatterlayer .trace').length,
  maps: plot.querySelectorAll('.heatmaplayer .hm').length,
  bars: plot.querySelectorAll('.barlayer .trace').length,
  names: plot.data.map(trace => trace.name),
  ink: plot.layout.template.layout.font.color,
  width: plot.getBoundingClientRect().width,
}))"""


MARGIN = "[data-figure=figure-margin]"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    assert BINARY is not None
    folder = tmp_path / "chromium"
    folder.mkdir()
    with Page(BINARY, folder) as page:
        yield page


def complaints(page: Page) -> list[Any]:
    """Everything that the page's console would show, dialogs included."""
    names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    return [
        found for name in (*names, "Page.javascriptDialogOpening") for found in page.named(name)
    ]


def network_requests(net_log: Path) -> set[str]:
    """The addresses that a page made Chromium ask its network stack for (files are none).

    Chromium asks for some by itself, without an origin: these are left out. What is prepared
    but never asked (a preconnect) shows as a stream without a request.
    """
    log = json.loads(net_log.read_text("utf-8"))
    kinds = log["constants"]["logSourceType"]
    ours: set[str] = set()
    own: set[str] = set()
    streams: set[str] = set()
    for event in log["events"]:
        params = event.get("params", {})
        if event["source"]["type"] == kinds["URL_REQUEST"] and "initiator" in params:
            (own if params["initiator"] == "not an origin" else ours).add(params["url"])
        elif event["source"]["type"] == kinds["HTTP_STREAM_JOB_CONTROLLER"] and "url" in params:
            streams.add(params["url"])
    return ours | (streams - own)


def test_the_page_draws_its_figures_and_asks_no_network(page: Page, tmp_path: Path) -> None:
    report = make_report(n_layers=12)
    url = report.to_html(tmp_path / "report.html").as_uri()
    page.resize(1280, 900)
    page.open(url)
    paths, repairs, parts, margin, scores = page.evaluate(DRAWN)
    assert margin["names"][0] == "logit lens margin"
    assert {name.split()[0] for name in scores["names"]} >= set(report.coherence.names) - {"margin"}
    for figure in (repairs, margin, scores):
        assert figure["svgs"] >= 2
        assert figure["lines"] == len(figure["names"])
    # Two maps, two rows of bars; the other traces of these figures are lines.
    assert (paths["maps"], paths["lines"]) == (2, len(paths["names"]) - 2)
    assert (parts["bars"], parts["lines"]) == (2, 3)
    assert complaints(page) == []
    asked = [event["request"]["url"] for event in page.named("Network.requestWillBeSent")]
    # The maps of the flows are pictures that stand in the page itself.
    assert [address for address in asked if not address.startswith("data:image/png;")] == [url]
    page.close()
    assert network_requests(page.net_log) == set()


def test_a_page_that_asked_the_network_would_be_found_out(page: Page, tmp_path: Path) -> None:
    image, prepared = "http://127.0.0.1:9/x.png", "http://127.0.0.2:9/"
    path = tmp_path / "asking.html"
    path.write_text(f"<img src='{image}'><link rel=preconnect href='{prepared}'>", "utf-8")
    page.open(path.as_uri())
    asked = [event["request"]["url"] for event in page.named("Network.requestWillBeSent")]
    assert asked == [path.as_uri(), image]
    page.close()
    assert network_requests(page.net_log) == {image, prepared}


@pytest.mark.parametrize("n_layers", [4, 32])
def test_the_page_fits_every_width(page: Page, tmp_path: Path, n_layers: int) -> None:
    report = make_report(n_layers=n_layers)
    report = report.replace(
        failure=make_failure(n_layers, -2.31), suggestion=make_suggestion(report.case, -2.31)
    )
    url = report.to_html(tmp_path / "report.html").as_uri()
    for width in (320, 360, 390, 768, 1280):
        page.resize(width, 800)
        page.open(url)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for figure in page.evaluate(DRAWN):
            assert 0 < figure["width"] <= width
        wide = page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') &&"
            f" e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == [], width


# Texts of figures that begin or end outside their figure, where they would be cut.
CUT = """[...document.querySelectorAll('[data-figure]')].flatMap(plot => {
  const room = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('svg text')]
    .filter(text => text.textContent && (text.getBoundingClientRect().right > room.right + 1
      || text.getBoundingClientRect().left < room.left - 1))
    .map(text => text.textContent);
})"""


@pytest.mark.parametrize("final", [-2.31, 2.0])
def test_no_text_of_a_figure_is_cut_on_a_phone(page: Page, tmp_path: Path, final: float) -> None:
    report = make_report(final=final)
    fixes, paths = report.repairs, report.pathways
    assert fixes is not None
    assert paths is not None
    long = "not repairable by replace subject"
    marks = tuple(mark.replace(state=float("nan"), reason=long) for mark in fixes.commitments[:2])
    redundant = ~paths.redundant
    report = report.replace(
        repairs=fixes.replace(commitments=(*marks, fixes.commitments[2])),
        pathways=paths.replace(redundant=redundant, cancelled=True),
    )
    page.resize(360, 800)
    page.open(report.to_html(tmp_path / "report.html").as_uri())
    page.settle()
    assert page.evaluate(CUT) == []


def tall_report() -> Report:
    """A report whose scores need more panels than a sheet of paper holds at full height."""
    report = make_report()
    scores = report.coherence.scores
    more = [
        score.replace(name=f"{kind}_{score.name}") for kind in ("a", "b", "c") for score in scores
    ]
    return report.replace(coherence=report.coherence.replace(scores=(*scores, *more)))


def test_the_page_follows_light_dark_and_paper(page: Page, tmp_path: Path) -> None:
    page.resize(1280, 900)
    page.prefer("light")
    page.open(tall_report().to_html(tmp_path / "report.html").as_uri())

    def inks() -> set[str]:
        return {figure["ink"] for figure in page.evaluate(DRAWN)}

    background = "getComputedStyle(document.body).backgroundColor"
    light, light_page = inks(), page.evaluate(background)
    page.prefer("dark")
    dark, dark_page = inks(), page.evaluate(background)
    assert len(light) == len(dark) == 1
    assert light != dark
    assert light_page != dark_page
    # What is printed from a dark screen is light, and fits an A4 page.
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.call("Emulation.setEmulatedMedia", media="print")
    assert inks() == light
    assert page.evaluate(background) == light_page
    svgs = (
        "[...document.querySelectorAll('.plot > * svg.main-svg')]"
        ".map(e => Math.round(e.getBoundingClientRect().width))"
    )
    heights = "[...document.querySelectorAll('figure')].map(e => e.clientHeight)"
    assert set(page.evaluate(svgs)) == {660}
    assert max(page.evaluate(heights)) <= 930  # what Letter holds: 11 in less the margins
    page.call("Emulation.setEmulatedMedia", media="")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert set(page.evaluate(svgs)) != {660}
    assert max(page.evaluate(heights)) > 930


def test_the_page_prints_on_a_few_sheets(page: Page, tmp_path: Path) -> None:
    page.open(make_report().to_html(tmp_path / "report.html").as_uri())
    pdf = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF-")
    assert 6 <= pdf.count(b"/Type /Page\n") <= 12  # five figures, seven tables


def test_hostile_text_is_shown_and_does_nothing(page: Page, tmp_path: Path) -> None:
    page.open(hostile_report().to_html(tmp_path / "report.html").as_uri())
    assert complaints(page) == []
    assert page.evaluate("document.querySelector('h1').textContent") == HOSTILE[0]
    assert page.evaluate("document.scripts.length") == 8
    texts = page.evaluate("[...document.querySelectorAll('svg text')].map(e => e.textContent)")
    assert any("</script>" in text for text in texts), texts  # as text, in a figure too
    assert all(figure["svgs"] >= 2 for figure in page.evaluate(DRAWN))


def test_a_script_that_got_into_the_page_would_not_run(page: Page, tmp_path: Path) -> None:
    path = make_report().to_html(tmp_path / "report.html")
    bad = "<script>window.owned = 1</script><p onclick='window.owned = 2'>x</p>"
    bad += "<img src='http://127.0.0.1:9/x.png'>"
    path.write_text(path.read_text("utf-8").replace("</main>", f"{bad}</main>"), "utf-8")
    page.open(path.as_uri())
    page.evaluate("document.querySelector('p[onclick]').click()")
    assert page.evaluate("window.owned") is None
    assert len(page.named("Log.entryAdded")) >= 3  # each refused by the page's policy
    assert all(figure["svgs"] >= 2 for figure in page.evaluate(DRAWN))


def test_hovering_a_state_shows_its_numbers(page: Page, tmp_path: Path) -> None:
    page.resize(1280, 2400)
    page.open(make_report().to_html(tmp_path / "report.html").as_uri())
    box = page.evaluate(
        f"(() => {{ const place = document.querySelector('{MARGIN}'); place.scrollIntoView();"
        " const r = place.querySelectorAll('.scatterlayer .point')[3].getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    for kind in ("mouseMoved", "mouseMoved"):
        page.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1])
    shown = page.evaluate(
        "new Promise(done => { let tries = 0; const look = () => {"
        f" const text = document.querySelector('{MARGIN} .hoverlayer').textContent;"
        " if (text || ++tries > 100) done(text); else setTimeout(look, 100); }; look(); })"
    )
    assert "after block 3 of 4" in shown
    assert "LD −0.77 logits" in shown


def test_without_scripts_the_numbers_can_still_be_read(page: Page, tmp_path: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(make_report().to_html(tmp_path / "report.html").as_uri())
    text = page.call("DOM.getOuterHTML", nodeId=page.call("DOM.getDocument")["root"]["nodeId"])
    assert "The figures need JavaScript" in text["outerHTML"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_comparison_fits_every_width_and_asks_no_network(
    page: Page, tmp_path: Path, scheme: str
) -> None:
    right = make_report(prompt="the concert is near . the bass is a", final=2.0)
    names = ("the one with distractors", "the other")
    found = compare(make_report(), right, names=names)
    url = found.to_html(tmp_path / "comparison.html").as_uri()
    page.prefer(scheme)
    for width in (320, 360, 1280):
        page.resize(width, 800)
        page.open(url)
        page.settle()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert width < 360 or page.evaluate(CUT) == []
        (figure,) = page.evaluate(DRAWN)
        assert 0 < figure["width"] <= width
    assert complaints(page) == []
    page.close()
    assert network_requests(page.net_log) == set()
