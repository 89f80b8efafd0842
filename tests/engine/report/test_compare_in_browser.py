"""The comparison in a browser: one score for all runs, a table that sorts, a line for each run, a narrow screen."""

import copy

import pytest
from browser import drawn
from compared_runs import make_pair
from selenium.webdriver.common.keys import Keys

from maskrcnn.engine.report.compare import comparison_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return comparison_data(make_pair(tmp_path_factory.mktemp("pair"), images=12).runs)


@pytest.fixture(scope="module")
def of_set(data):
    return data["sets"][0]


def open_page(show, data, width=1280):
    return show(data, width, "compare")


def test_a_table_is_saved_under_the_name_of_its_test_set(show, data, of_set):
    page = open_page(show, data)
    code = """
        const names = [];
        window.saveText = (name) => names.push(name);
        document.querySelectorAll(".table > button").forEach((button) => button.click());
        return names;
    """
    names = page.js(code)
    assert len(names) == 5 and all(name.startswith(f"{of_set['name']}-") for name in names)


def test_without_pictures_it_is_said_why(show, data):
    changed = copy.deepcopy(data)
    changed["sets"][0] |= {"pictures": [], "groups": [], "left_off": ["There are no pictures: /x/1.png is gone"]}
    page = open_page(show, changed)
    assert page.text("#left-off") == "There are no pictures: /x/1.png is gone" and page.all(".card") == []


def shown(of_set, group, i, score):
    """Of the first picture of a group, the i-th run: the numbers below it, counted from the rows."""
    picture = of_set["pictures"][next(g["pictures"] for g in of_set["groups"] if g["name"] == group)[0]]
    found = picture["runs"][i]["detections"]
    rows = [r for r, s in enumerate(found["score"]) if s >= score]
    errors = [found["error"]["segm"][r] for r in rows]
    owners = picture["runs"][i]["found_by"]["segm"]
    crowd = picture["objects"]["crowd"]
    hits = sum(owner in rows for k, owner in enumerate(owners) if owner >= 0 and not crowd[k])
    count = len(errors) - errors.count("crowd")
    wrong = count - errors.count("")
    return f"{hits} found; {count} detection{'' if count == 1 else 's'}, {wrong} wrong", len(rows)


def test_the_slider_changes_the_pictures_of_all_runs(show, of_set, data):
    page = open_page(show, data)
    seen = set()
    for score in (0, 0.35, 0.95):
        page.score(score)
        for i in (0, 1):
            part = f"#cards .card .part:nth-child({i + 2})"
            drawn(page, f"{part} canvas")
            line, count = shown(of_set, "better", i, score)
            assert page.text(f"{part} .line") == line
            assert page.find(f"{part} canvas").get_attribute("data-drawn") == str(count)
            seen.add((i, count))
    assert len(seen) > 3  # they did change


def test_f1_of_each_run_at_the_score(show, of_set, data):
    page = open_page(show, data)
    page.score(0.5)
    expected = []
    for own in of_set["kinds"]["segm"]:
        true, false = (sum(sum(row[50:]) for row in own["counts"][name]) for name in ("true", "false"))
        expected.append(f"{2 * true / (true + false + sum(of_set['objects'])):.2f}")
    assert [one.text for one in page.all("#runs-f1 output")] == expected
    assert [one.text.split("\n")[0] for one in page.all("#rates tbody td:last-child")] == expected
    page.all("#runs-f1 button")[1].click()
    page.settle()
    assert page.text("#score-value") == f"{of_set['kinds']['segm'][1]['best_f1']['all']['threshold']:.2f}"


def test_figures_with_their_differences(show, of_set, data):
    page = open_page(show, data)
    for kind, (first, other) in of_set["kinds"].items():
        table = page.find(f"#figures-{kind}")
        names = [one.text for one in table.find_elements("css selector", "thead th")][1:]
        assert names[:3] == ["AP", "AP50", "AP75"]
        cells = [one.text for one in table.find_elements("css selector", "tbody tr:nth-child(2) td")]
        for name, cell in zip(names[: len(first["figures"])], cells, strict=False):
            before, after = first["figures"][name], other["figures"][name]
            value, change = cell.split("\n")
            if before < 0 or after < 0:
                assert (value, change) == ("–", "–")
            else:
                assert value == f"{after:.1f}"
                assert float(change.replace("−", "-")) == pytest.approx(after - before, abs=0.051)
                assert change[0] in "+−0"
        best = [one.text for one in table.find_elements("css selector", "strong")]
        assert f"{max(first['figures']['AP'], other['figures']['AP']):.1f}" in best


def test_categories_are_sorted_by_the_size_of_the_difference(show, of_set, data):
    changed = copy.deepcopy(data)
    rows = [own["by_class"]["rows"] for own in changed["sets"][0]["kinds"]["segm"]]
    for label, (before, after) in enumerate([(50, 51.5), (50, 49), (30, 10), (-1, -1), (20, 35)]):
        rows[0][label][0], rows[1][label][0] = before, after
    page = open_page(show, changed)
    classes = of_set["classes"]

    def column(number):
        return [one.text for one in page.all(f"#by-class .table tbody tr > :nth-child({number})")]

    assert column(1) == [classes[label] for label in (2, 4, 0, 1, 3)]
    assert column(5) == ["−20.0", "+15.0", "+1.5", "−1.0", "–"]
    page.js("arguments[0].click()", page.all("#by-class .table thead button")[4])
    assert column(5) == ["−1.0", "+1.5", "+15.0", "−20.0", "–"]
    page.js("arguments[0].click()", page.all("#by-class .table tbody button")[0])
    page.settle()
    assert page.text("#curves-title") == f"Curves: {classes[1]}"
    page.choose("class-figure", "AP50")
    assert column(1) != [classes[label] for label in (1, 0, 4, 2, 3)]


def test_each_chart_has_a_line_for_each_run(show, data):
    page = open_page(show, data)
    for section in ("curves", "training"):
        page.js("document.getElementById(arguments[0]).scrollIntoView()", section)
        legends = page.js(
            "return [...document.querySelectorAll(`#${arguments[0]} > .charts > .chart`)].map((chart) => "
            "[...chart.querySelectorAll('.u-legend .u-label')].slice(1).map((label) => label.textContent))",
            section,
        )
        assert len(legends) > 2 and all(legend == ["run", "other"] for legend in legends)


def test_series_of_different_lengths_share_their_iterations(show, data):
    longer = copy.deepcopy(data)
    longer["runs"][1]["training"] = {"iterations": [9, 19, 39], "series": {"total_loss": [3.0, 2.0, 1.0]}}
    page = open_page(show, longer)
    joined = page.js(
        "return joinRuns(arguments[0].map((run, index) => "
        "({run: {...run, index}, xs: run.training.iterations, values: run.training.series.total_loss})))",
        longer["runs"],
    )
    assert joined["xs"] == [9, 19, 39]
    assert [one["values"] for one in joined["series"]] == [[None, 2.0, None], [3.0, 2.0, 1.0]]


def test_the_viewer_shows_all_runs(show, of_set, data):
    page = open_page(show, data)
    page.score(0)
    page.js("document.querySelector('#cards .card').click()")
    page.wait("document.getElementById('viewer').open")
    assert [one.text for one in page.all("#viewer figcaption")] == ["ground truth", "1run", "2other"]
    counts = []
    for i in range(3):
        drawn(page, f"#viewer figure:nth-child({i + 1}) canvas")
        counts.append(int(page.find(f"#viewer figure:nth-child({i + 1}) canvas").get_attribute("data-drawn")))
    assert counts[1:] == [shown(of_set, "better", i, 0)[1] for i in (0, 1)]
    hits = [shown(of_set, "better", i, 0)[0].split(" found")[0] for i in (0, 1)]
    assert page.text("#viewer-line").endswith(f"found: run {hits[0]}, other {hits[1]}")
    page.find("#viewer figure canvas").send_keys("n")
    page.settle()
    assert "(2 of " in page.text("#viewer-title")
    page.find("#viewer figure canvas").send_keys(Keys.ESCAPE)


def test_ground_truth_is_found_where_all_runs_have_found_it(show, of_set, data):
    page = open_page(show, data)
    outcomes = page.js(
        "return arguments[0].map(expandPicture).map((p) => p.objects.box.map((_, row) => "
        "objectOutcome(p.truth, row, 'segm', 20)))",
        of_set["pictures"],
    )
    kinds = set()
    for picture, of_picture in zip(of_set["pictures"], outcomes, strict=True):
        for row, outcome in enumerate(of_picture):
            scores = [
                run["detections"]["score"][run["found_by"]["segm"][row]] if run["found_by"]["segm"][row] >= 0 else -1
                for run in picture["runs"]
            ]
            expected = "crowd" if picture["objects"]["crowd"][row] else "right" if min(scores) >= 0.2 else "wrong"
            assert outcome == expected
            kinds.add(outcome)
    assert kinds == {"right", "wrong", "crowd"}


def test_differences_are_side_by_side(show, data):
    page = open_page(show, data)
    rows = [one.text.split() for one in page.all("#config tbody tr")]
    assert ["SEED", "0", "5"] in rows and len(rows) == len(data["config"])


def without_sets(data):
    return data | {"sets": [], "not_compared": ["val, run: it has no results", 200 * "x"]}


def six_runs(data):
    """The second one five times, under long names."""
    found = copy.deepcopy(data)
    found["runs"] += [found["runs"][1] | {"name": f"{k}{'y' * 60}"} for k in range(4)]
    chosen = found["sets"][0]
    chosen["runs"] = list(range(6))
    chosen["kinds"] = {kind: [own[0], *5 * [own[1]]] for kind, own in chosen["kinds"].items()}
    for picture in chosen["pictures"]:
        picture["runs"] = [picture["runs"][0], *5 * [picture["runs"][1]]]
    for name in ("config", "starts", "timing"):
        found[name] = [[key, [values[0], *5 * [values[1]]]] for key, values in found[name]]
    return found


@pytest.mark.parametrize("change", [lambda data: data, without_sets, six_runs], ids=["two runs", "no sets", "six runs"])
def test_it_fits_a_narrow_screen(show, data, change):
    changed = change(data)
    page = open_page(show, changed, width=400)
    sections = ["figures", "errors", "pictures", "curves"] if changed["sets"] else []
    assert [one.get_attribute("id") for one in page.all("main > section")] == [*sections, "training", "differences"]
    assert page.js("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0
    page.js("document.getElementById('losses')?.setAttribute('open', '')")
    if changed["sets"]:
        drawn(page, "#cards .card canvas")
        page.js("document.querySelector('#cards .card').click()")
        page.wait("document.getElementById('viewer').open")
        assert page.js("return document.getElementById('viewer').scrollWidth") <= 400
        page.settle()
    else:
        assert "val, run: it has no results" in page.text("#not-compared")
