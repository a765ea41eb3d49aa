"""The page in a real Chromium, as wide as a phone and as a laptop: it fits, no plot is empty, tabs work."""

import json
import shutil

import pytest
from test_report import make_run

from rlsuite.report.study import read_study
from rlsuite.report.write import write_report

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
WIDTHS = (390, 1280)
LABEL = "sac (gamma 0.900000000001)"  # as long as labels are


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of negative returns: three seeds of one setting, one of another, with losses."""
    folder = tmp_path_factory.mktemp("page")
    for name, rows, fields in (
        (
            "three",
            [[-1_500.0 + 90 * k * (s + 1) for k in range(6)] for s in range(3)],
            {"gamma": 0.900000000001, "tau": 0.01},
        ),
        ("one", [-1_200.0 - 40 * k for k in range(4)], {}),
    ):
        run = make_run(folder / "runs" / name, rows, every=100_000, **fields)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            line |= {
                "loss/critic": 2.0,
                "loss/actor": -3.0,
                "eval/value_error": -5.0 - line["step"],
                "entropy": -1.0,
            }
            line |= {"steps_per_second": 80.0}
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert any(group.label == LABEL for group in read_study([folder / "runs"]).groups)
    write_report([folder / "runs"], folder / "out")
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(params=WIDTHS)
def page(browser, path, request):
    shown = browser.new_page(viewport={"width": request.param, "height": 900})
    errors = []
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.on("request", lambda asked: errors.append(asked.url) if asked.url.startswith("http") else None)
    shown.goto(path.as_uri())
    shown.wait_for_selector("#panel-0 .main-svg")
    yield shown
    assert not errors
    shown.close()


def lines_inside(page, panel):
    """Return, for every figure of a tab, how many lines and dots lie wholly inside its plot."""
    return page.evaluate(
        """panel => [...document.querySelectorAll(`#panel-${panel} .figure`)].map(figure => {
            const plot = figure.querySelector(".nsewdrag").getBoundingClientRect();
            const inside = mark => {
                const box = mark.getBoundingClientRect();
                return box.width + box.height > 0 && box.left >= plot.left - 3 && box.right <= plot.right + 3
                    && box.top >= plot.top - 3 && box.bottom <= plot.bottom + 3;
            };
            const marks = figure.querySelectorAll(".scatterlayer .js-line, .scatterlayer .point");
            return [...marks].filter(inside).length;
        })""",
        panel,
    )


def test_the_page_fits_and_no_tab_is_empty(page):
    tabs = page.locator("[role=tab]")
    assert tabs.all_inner_texts() == ["Return", "Losses", "Critic bias", "Entropy", "Speed"]
    for scale in ("linear", "log"):
        page.select_option("#scale", scale)
        for at in range(tabs.count()):
            tabs.nth(at).click()
            panels = page.locator("[role=tabpanel]")
            assert [panels.nth(k).is_visible() for k in range(5)] == [k == at for k in range(5)]
            counts = lines_inside(page, at)
            assert len(counts) == (2 if at == 1 else 1) and min(counts) >= 2, (scale, at, counts)
            widths = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert widths[0] <= widths[1] == page.viewport_size["width"]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_the_box_at_the_pointer_has_step_return_and_seed_or_interval(page, scale):
    page.select_option("#scale", scale)
    plot = page.locator(
        "#panel-0 .nsewdrag"
    )  # the pointer is between two evaluations, 74 pixels from the nearer
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 0.73, "y": box["height"] / 2})
    page.wait_for_selector("#panel-0 .hoverlayer .legendtext", state="attached")
    head, *rest = page.locator("#panel-0 .hoverlayer text").all_text_contents()
    assert head == "env steps · return · seed or 95 % interval"
    fields = [line.partition(": ")[2].split(" · ") for line in rest]
    assert sorted(fields) == [["400,000", "-1,320", "seed 0"], ["400,000", "-960", "-1,230 to -690"]]


def test_the_ticks_of_a_symmetric_scale_are_returns(page):
    page.select_option("#scale", "log")
    ticks = page.locator("#panel-0 .ytick text").all_text_contents()
    assert "-1,000" in ticks and "symlog" in page.locator("#panel-0 .gtitle").text_content()


def test_arrow_keys_and_legend_work_and_a_table_is_copied(page):
    page.locator("[role=tab]").first.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("[aria-selected=true]").inner_text() == "Speed"
    page.locator("[role=tab]").first.click()
    before = len(page.query_selector_all("#panel-0 .js-line"))
    page.locator(".legend button", has_text=LABEL).click()
    assert 0 < len(page.query_selector_all("#panel-0 .js-line")) < before
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".copy", has_text="LaTeX").first.click()
    page.wait_for_selector("text=copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith(r"\begin{tabular}{ll")
