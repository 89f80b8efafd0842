"""The page in a browser: what it shows is what the data say, it can be used, and it asks nobody for anything."""

from __future__ import annotations

import csv
import io
from typing import Any

import cv2
import numpy as np
import pytest
from browser import Page, drawn
from example_data import example_data
from pycocotools import mask as coco_masks
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

# ---- numbers ----


def numbers_at(data: dict[str, Any], kind: str, score: float, label: int | None = None) -> list[str]:
    """Detections, precision, recall and F1, counted from the pictures: the example's set is what they hold."""
    right = wrong = objects = 0
    for picture in data["sets"][0]["pictures"]:
        found, truth = picture["detections"], picture["objects"]
        objects += sum(
            not crowd and label in (None, k) for k, crowd in zip(truth["label"], truth["crowd"], strict=True)
        )
        for k, s, error in zip(found["label"], found["score"], found["error"][kind], strict=True):
            if s >= score and error != "crowd" and label in (None, k):
                right, wrong = right + (error == ""), wrong + (error != "")
    if right + wrong == 0:
        return ["0", "–", f"{0:.2f}", f"{0:.2f}"]
    precision, recall = right / (right + wrong), right / objects
    f1 = 2 * precision * recall / (precision + recall) if right else 0
    return [str(right + wrong), f"{precision:.2f}", f"{recall:.2f}", f"{f1:.2f}"]


def floored(score: float) -> str:
    """Two digits, not rounded up to a score at which it would be left out."""
    return f"{int(100 * score) / 100:.2f}"


def numbers_shown(page: Page) -> list[str]:
    return [page.text(f"#{name}") for name in ("detections", "precision", "recall", "f1")]


def test_the_slider_counts_what_is_at_or_above_it(show):
    data = example_data()
    page = show(data)
    best = data["sets"][0]["kinds"]["segm"]["best_f1"]["all"]
    assert page.text("#score-value") == f"{best['threshold']:.2f}"
    assert page.text("#f1") == f"{best['f1']:.2f}"
    for score in (0, 0.2, 0.47, 0.7, 0.98, 1):
        page.score(score)
        assert numbers_shown(page) == numbers_at(data, "segm", score)
        assert page.text("#score-value") == f"{score:.2f}"
    page.find("#score").send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 30)
    page.settle()
    assert page.text("#score-value") == "0.30"
    assert numbers_shown(page) == numbers_at(data, "segm", 0.3)
    page.find("#best").click()
    page.settle()
    assert page.text("#f1") == f"{best['f1']:.2f}"


def test_masks_and_boxes_and_categories_have_numbers_of_their_own(show):
    data = example_data()
    page = show(data)
    page.choose("kind", "boxes")
    page.score(0.4)
    assert numbers_shown(page) == numbers_at(data, "bbox", 0.4) != numbers_at(data, "segm", 0.4)
    page.choose("category", "dog")
    assert numbers_shown(page) == numbers_at(data, "bbox", 0.4, label=1)
    assert page.text("#curves-title") == "Curves: dog"
    page.choose("kind", "masks")
    assert numbers_shown(page) == numbers_at(data, "segm", 0.4, label=1)


def test_another_set_has_its_own_numbers(show):
    data = example_data(sets=2)
    page = show(data)
    page.choose("set", "set_1")
    page.score(0.3)
    assert numbers_shown(page) == numbers_at({"sets": data["sets"][1:]}, "segm", 0.3)


def test_confusion_follows_the_slider(show):
    data = example_data()
    page = show(data)
    chosen = data["sets"][0]
    for score in (0.1, 0.6):
        page.score(score)
        matched = np.zeros((3, 3), int)
        for picture in chosen["pictures"]:
            found = picture["detections"]
            for label, s, error in zip(found["label"], found["score"], found["error"]["segm"], strict=True):
                if s >= score and error in ("", "cls"):
                    matched[label if error == "" else (label - 1) % 3, label] += 1
        said = page.js("return [...document.querySelectorAll('.confusion td[data-said]')].map((c) => c.dataset.said)")
        for label, (name, objects) in enumerate(zip(chosen["classes"], chosen["objects"], strict=True)):
            row = [text for text in said if f"objects of {name} " in text]
            assert [int(text.split()[0]) for text in row] == [*matched[label], objects - matched[label].sum()]


def test_confusion_of_many_categories_shows_those_with_most_of_it(show):
    """Two of forty are taken for each other; arrow keys lead to a cell, which says its number."""
    data = example_data(classes=[f"c{k}" for k in range(40)], pictures=3)
    kind = data["sets"][0]["kinds"]["segm"]
    data["sets"][0]["objects"] = [10] * 40
    kind["confusion"] = [[31, 37, [80, 4, 20, 1]], [31, 31, [90, 2]], [40, 5, [95, 7]]]
    page = show(data)
    page.score(0.5)
    rows = [one.text for one in page.all(".confusion tbody th")]
    assert len(rows) == 21 and {"c31", "c37", "(nothing)"} <= set(rows)
    row = page.all(".confusion tbody tr")[rows.index("c31")]
    said = [one.get_attribute("data-said") for one in row.find_elements(By.TAG_NAME, "td")]
    assert said[rows.index("c37")] == "4 of 10 objects of c31 were detected as c37"
    assert said[-2:] == [
        "0 of 10 objects of c31 were detected as (others)",
        "4 of 10 objects of c31 were not detected",
    ]
    cell = row.find_elements(By.TAG_NAME, "td")[rows.index("c37") - 1]
    page.js("arguments[0].focus()", cell)
    cell.send_keys(Keys.ARROW_RIGHT)
    assert page.text("#confusion-line") == said[rows.index("c37")]
    page.score(0.9)
    assert page.text("#confusion-line") == ""


def test_a_click_in_the_confidence_chart_sets_the_score(show):
    page = show(example_data())
    over = page.all("#curves .u-over")[1]
    page.js("arguments[0].scrollIntoView({block: 'center'})", over)
    over.click()  # in its middle
    page.settle()
    assert float(page.text("#score-value")) == pytest.approx(0.5, abs=0.01)
    ActionChains(page.chromium).move_to_element_with_offset(over, -60, 0).click_and_hold().move_by_offset(
        30, 0
    ).release().perform()  # zooms in
    page.settle()
    assert float(page.text("#score-value")) == pytest.approx(0.5, abs=0.01)


def test_the_charts_mark_the_score(show):
    """On precision over recall and on the curves over the score; calibration has no mark."""
    page = show(example_data())
    pixels = "return [...document.querySelectorAll('#curves .uplot canvas')].map((c) => c.toDataURL())"
    page.score(0.3)
    before = page.js(pixels)
    page.score(0.7)
    assert [a == b for a, b in zip(before, page.js(pixels), strict=True)] == [False, False, True]


def test_tables_are_saved_as_csv(show):
    page = show(example_data(pictures=1))
    rows = [["category", "AP"], ['say "a, b"', 1.5], ["dog", None], ["=1+2", -1], ["a\rb", -0.5]]
    code = """
        const [h, ...r] = arguments[0];
        return asCSV(h.map((name) => ({name, show: figure})), r.map((cells) => ({cells})));
    """
    saved = list(csv.reader(io.StringIO(page.js(code, rows), newline="")))
    assert saved == [["category", "AP"], ['say "a, b"', "1.5"], ["dog", ""], ["'=1+2", ""], ["a\rb", "-0.5"]]


def saved_names(page):
    """The names of the files that the page's buttons for tables save."""
    code = """
        const names = [];
        window.saveText = (name) => names.push(name);
        document.querySelectorAll(".table > button").forEach((button) => button.click());
        return names;
    """
    return page.js(code)


def test_a_table_is_saved_under_the_name_of_its_test_set(show):
    page = show(example_data(pictures=1, sets=2))
    names = ["errors-segm", "categories-segm", "sizes"]
    assert saved_names(page) == [f"set_0-{name}.csv" for name in names]
    page.choose("set", "set_1")
    assert saved_names(page) == [f"set_1-{name}.csv" for name in names]


def test_what_is_left_off_is_said_above_the_pictures(show):
    data = example_data(pictures=2, sets=2)
    data["sets"][0]["left_off"], data["sets"][1]["left_off"] = ["Few pictures.", "9 masks are left off."], []
    page = show(data)
    assert page.text("#left-off") == "Few pictures. 9 masks are left off."
    page.choose("set", "set_1")
    assert not page.find("#left-off").is_displayed()


def test_where_a_mask_is_left_off_its_box_is_drawn(show):
    code = """
        const boxes = [];
        const rect = Path2D.prototype.rect;
        Path2D.prototype.rect = function (...box) { boxes.push(box); return rect.apply(this, box); };
        const context = document.createElement("canvas").getContext("2d");
        const rows = {box: [[1, 2, 4, 8], [1, 2, 5, 9]], mask: [null, [1, 2, 1, 1, "01"]], label: [0, 0]};
        for (const masks of [true, false]) {
          const look = {layers: {masks, boxes: false}, kind: "segm", classes: ["a"], colours: "outcome"};
          for (const row of [0, 1]) drawInstance(context, rows, {row, outcome: "right"}, look, 1);
        }
        return boxes;
    """
    assert show(example_data(pictures=1)).js(code) == [[1, 2, 3, 6]]


def test_tables_sort(show):
    data = example_data(classes=[f"class {k}" for k in range(9)], pictures=12)
    page = show(data)
    rows = data["sets"][0]["kinds"]["segm"]["by_class"]["rows"]
    head = next(one for one in page.all("#tables thead button") if one.text.startswith("AP50"))

    def column() -> list[str]:
        return [one.text for one in page.find("#tables table").find_elements(By.CSS_SELECTOR, "td:nth-child(4)")]

    page.js("arguments[0].click()", head)
    there = sorted((row[1] for row in rows if row[1] >= 0), reverse=True)
    missing = ["–"] * sum(row[1] < 0 for row in rows)
    assert column() == [f"{value:.1f}" for value in there] + missing
    page.js("arguments[0].click()", head)
    assert column() == [f"{value:.1f}" for value in there[::-1]] + missing


# ---- pictures ----


def test_masks_decode_to_what_was_encoded(show):
    """Also those with holes, with single pixels that touch at corners, empty and full ones."""
    page = show(example_data(pictures=1))
    rng = np.random.default_rng(0)
    masks = [(rng.random((7, 11)) < share).astype(np.uint8) for share in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)]
    masks += [np.kron(mask, np.ones((30, 20), np.uint8)) for mask in masks[2:4]]  # runs beyond one character
    rows = [[2, 3, m.shape[1], m.shape[0], coco_masks.encode(np.asfortranarray(m))["counts"].decode()] for m in masks]
    inside = """
        const context = document.createElement("canvas").getContext("2d");
        return arguments[0].map((row) => {
          const mask = decodeMask(row);
          const polygons = traceOutline(mask);
          const path = pathOf(polygons);
          const filled = [];
          for (let y = 0; y < row[3]; y++) for (let x = 0; x < row[2]; x++)
            filled.push(Number(context.isPointInPath(path, row[0] + x + 0.5, row[1] + y + 0.5, "evenodd")));
          const next = (p, i) => p[(i + 1) % p.length];
          const twice = (p) => p.reduce((s, [x, y], i) => s + x * next(p, i)[1] - y * next(p, i)[0], 0);
          const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
          const [area, outlined] = [sum(Array.from(mask.pixels)), sum(polygons.map(twice)) / 2];
          return {area, outlined, count: polygons.length, filled};
        });
    """
    for mask, got in zip(masks, page.js(inside, rows), strict=True):
        assert got["area"] == got["outlined"] == mask.sum()
        framed = np.pad(mask, 1)  # pixels that touch at a corner are apart; what surrounds them hangs together there
        parts = cv2.connectedComponents(framed, connectivity=4)[0] - 1
        holes = cv2.connectedComponents(1 - framed, connectivity=8)[0] - 2
        assert got["count"] == parts + holes
        np.testing.assert_array_equal(np.reshape(got["filled"], mask.shape), mask)


def test_the_masks_of_the_pictures_have_their_areas(show):
    data = example_data()
    page = show(data)
    rows = [mask for picture in data["sets"][0]["pictures"] for mask in picture["detections"]["mask"]]
    expected = [coco_masks.area({"size": [h, w], "counts": counts.encode()}) for _, _, w, h, counts in rows]
    assert min(expected) > 0
    code = "return arguments[0].map((row) => decodeMask(row).pixels.reduce((a, b) => a + b, 0))"
    assert page.js(code, rows) == [int(area) for area in expected]


PREDICTIONS = "#cards .card canvas:nth-child(2)"


def test_layers_and_the_score_change_what_is_drawn(show):
    data = example_data(keypoints=True)
    page = show(data)
    page.score(0)
    picture = data["sets"][0]["pictures"][data["sets"][0]["groups"][0]["pictures"][0]]
    at_first = drawn(page, PREDICTIONS)
    assert page.find(PREDICTIONS).get_attribute("data-drawn") == str(len(picture["detections"]["score"]))
    for layer in ("masks", "boxes", "keypoints", "names"):
        box = f"#pictures [data-layer={layer}] input"
        page.find(box).click()
        page.settle()
        assert drawn(page, PREDICTIONS) != at_first, layer
        page.find(box).click()
        page.settle()
        assert drawn(page, PREDICTIONS) == at_first, layer
    scores = picture["detections"]["score"]
    middle = int(100 * sorted(scores)[len(scores) // 2]) / 100  # just below one of them
    page.score(middle)
    assert drawn(page, PREDICTIONS) != at_first
    above = sum(score >= middle for score in scores)
    assert page.find(PREDICTIONS).get_attribute("data-drawn") == str(above)
    page.score(1)
    drawn(page, PREDICTIONS)
    assert page.find(PREDICTIONS).get_attribute("data-drawn") == "0"


def test_an_example_leads_into_the_viewer(show):
    data = example_data()
    page = show(data)
    page.find("[data-error=loc]").click()
    page.settle()
    index, row = data["sets"][0]["kinds"]["segm"]["errors"]["types"][1]["examples"][1]
    picture = data["sets"][0]["pictures"][index]
    page.all("#examples .example")[1].click()
    page.wait("document.getElementById('viewer').open")
    name = data["sets"][0]["classes"][picture["detections"]["label"][row]]
    said = page.text("#viewer-line")
    assert said.startswith(f"loc: predicted {name} {floored(picture['detections']['score'][row])}, IoU 0.49 with a")
    assert said.split("(")[0].strip().endswith(name)
    assert picture["file"] in page.text("#viewer-title")
    # The window is around the detection, no larger than the picture, and only it stands out.
    window = page.js("return windowAround(arguments[0], [arguments[1]], 3)", picture, picture["detections"]["box"][row])
    x1, y1, x2, y2 = picture["detections"]["box"][row]
    assert window[0] <= x1 and window[1] <= y1 and window[2] >= x2 and window[3] >= y2
    side = window[2] - window[0]
    assert side == pytest.approx(window[3] - window[1]) and side <= max(picture["width"], picture["height"]) + 1e-9
    canvas = "#viewer figure:nth-child(2) canvas"
    before = drawn(page, canvas)
    page.find("#viewer-all").click()
    page.settle()
    everything = drawn(page, canvas)
    assert everything != before
    page.find(canvas).send_keys("+")
    page.settle()
    assert drawn(page, canvas) != everything
    ActionChains(page.chromium).drag_and_drop_by_offset(page.find(canvas), 40, 25).perform()
    page.settle()
    assert drawn(page, canvas) != everything
    page.find(canvas).send_keys("0")
    page.settle()
    whole = drawn(page, canvas)
    scroll = ScrollOrigin.from_element(page.find(canvas))
    ActionChains(page.chromium).scroll_from_origin(scroll, 0, -120).perform()
    page.settle()
    assert drawn(page, canvas) != whole
    page.find(canvas).send_keys("n")
    page.settle()
    assert "(3 of " in page.text("#viewer-title")
    page.find(canvas).send_keys(Keys.ESCAPE)
    page.wait("!document.getElementById('viewer').open")


def test_a_missed_object_is_an_example_too(show):
    data = example_data()
    page = show(data)
    page.find("[data-error=missed]").click()
    page.settle()
    page.find("#examples .example").click()
    page.wait("document.getElementById('viewer').open")
    assert page.text("#viewer-line").endswith("that no detection found")
    assert page.text("#viewer-line").startswith("missed: a")


def test_the_viewer_names_what_is_under_the_pointer(show):
    data = example_data()
    page = show(data)
    page.score(0)
    page.find("#cards .card").click()
    page.wait("document.getElementById('viewer').open")
    selector = "#viewer figure:nth-child(2) canvas"
    drawn(page, selector)
    picture = data["sets"][0]["pictures"][data["sets"][0]["groups"][0]["pictures"][0]]
    boxes = np.array(picture["detections"]["box"])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    x, y = (boxes[area.argmax(), :2] + boxes[area.argmax(), 2:]) / 2
    under = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    row = int(np.where(under, area, np.inf).argmin())
    width, height = page.js("const c = arguments[0]; return [c.clientWidth, c.clientHeight]", page.find(selector))
    scale = min(width / picture["width"], height / picture["height"])
    right, down = (scale * (x - picture["width"] / 2), scale * (y - picture["height"] / 2))  # from the middle
    ActionChains(page.chromium).move_to_element_with_offset(page.find(selector), right, down).perform()
    name = data["sets"][0]["classes"][picture["detections"]["label"][row]]
    assert page.text("#viewer-line").startswith(f"predicted {name} {floored(picture['detections']['score'][row])}, ")


def test_groups_show_their_pictures_in_order(show):
    data = example_data()
    page = show(data)
    chosen = data["sets"][0]
    for group in chosen["groups"]:
        page.find(f"[data-group={group['name']}]").click()
        page.settle()
        files = [one.text for one in page.all("#cards .file")]
        assert files == [chosen["pictures"][i]["file"] for i in group["pictures"]]


def test_the_config_can_be_searched(show):
    data = example_data()
    page = show(data)
    page.find("#config-filter").send_keys("solver COMMAND")
    assert [one.text for one in page.all(".config tbody th")] == ["SOLVER.BASE_LR"]
    assert page.text("#config-count") == "1 of 3"


# ---- keyboard, links, print ----


def test_the_keyboard_keeps_its_place(show):
    data = example_data(sets=2)
    page = show(data)
    for identifier in ("category", "kind", "set"):
        page.find(f"#{identifier}").send_keys(Keys.ARROW_DOWN)
        page.settle()
        assert page.js("return document.activeElement.id") == identifier
    assert page.js("return document.getElementById('set').value") == "1"
    assert page.js("return document.getElementById('category').value") == "-1"  # a new set begins anew


@pytest.mark.parametrize("width", [400, 1280])
def test_a_link_leads_below_the_bar(show, width: int):
    page = show(example_data(sets=2), width=width)
    page.find("nav a[href='#curves']").click()
    page.settle()
    bar = page.js("return document.querySelector('.bar-top').getBoundingClientRect().bottom")
    title = page.js("return document.getElementById('curves-title').getBoundingClientRect().top")
    assert title == pytest.approx(bar, abs=1.5)


def test_a_print_has_the_pictures_at_once(show):
    page = show(example_data(pictures=40, objects=2))
    page.wait("[...imageCache.values()].every((image) => image.complete)")
    blank = page.js(
        "dispatchEvent(new Event('beforeprint'));"
        "return document.querySelectorAll('.card canvas:not([data-drawn]), .example canvas:not([data-drawn])').length"
    )
    assert blank == 0 and page.all("#cards canvas") and page.all("#examples canvas")


def test_the_viewer_keeps_the_keyboard_and_the_picture(show):
    page = show(example_data())
    page.find("#examples .example").click()
    page.wait("document.getElementById('viewer').open")
    page.find("#viewer-all").send_keys(Keys.ENTER)
    page.settle()
    assert page.js("return document.activeElement.tagName") == "CANVAS"
    canvas = "#viewer figure:nth-child(2) canvas"
    page.find(canvas).send_keys("0")
    page.settle()
    whole = drawn(page, canvas)
    page.find(canvas).send_keys(*[Keys.ARROW_RIGHT] * 3)
    page.settle()
    assert drawn(page, canvas) == whole
    page.find("#viewer .layers input").send_keys("n")
    assert "(2 of " in page.text("#viewer-title")


# ---- what the numbers and the words say ----


def charted(page: Page) -> list[str]:
    page.js("document.getElementById('training').scrollIntoView()")
    page.wait("document.querySelector('#training .chart:nth-child(2) .u-legend')")
    code = "return [...document.querySelectorAll('#training .chart:nth-child(2) .u-label')].map((e) => e.textContent)"
    names: list[str] = page.js(code)
    return names[1:]


def test_each_of_several_sets_has_its_course_of_ap(show):
    data = example_data(sets=2, classes=["cell", "floss"])
    series = data["evaluations"]["series"]
    named = {name: values for name, values in series.items() if not name.startswith("val/")}
    for name, values in named.items():
        series[f"set_0/{name}"] = series.pop(name)
        series[f"set_1/{name}"] = [value / 2 for value in values]
    page = show(data)
    page.choose("set", "set_1")
    page.choose("category", "floss")
    assert charted(page) == [f"segm/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-floss")]
    values = page.js("return evaluatedSeries(arguments[0], {name: 'set_1'}, 'segm/AP')", data["evaluations"])
    assert values == series["set_1/segm/AP"]


def test_a_category_without_an_error_says_so(show):
    data = example_data(pictures=2)
    missed = data["sets"][0]["kinds"]["segm"]["errors"]["types"][-1]
    missed |= {"count": 7, "by_class": [7, 0, 0], "examples": []}
    page = show(data)
    page.find("[data-error=missed]").click()
    assert page.text("#examples") == "No example of this is among the pictures of this page."
    page.choose("category", "dog")
    page.find("[data-error=missed]").click()
    assert page.text("#examples") == "There is none."


def test_colours_go_with_the_chosen_set(show):
    data = example_data(classes=["cell"])
    data["sets"] += example_data(seed=1)["sets"]
    data["sets"][1]["name"] = "several"
    page = show(data)
    page.choose("set", "several")
    assert page.js("return document.querySelector('#pictures .layers label:last-child input').checked")


def test_the_best_score_of_the_slider_keeps_the_detection_that_defines_it(show):
    data = example_data(classes=["cell"], pictures=1)
    kind = data["sets"][0]["kinds"]["segm"]
    true, false = [0] * 101, [0] * 101
    true[69], true[90], false[20] = 1, 2, 5
    kind["counts"] = {"true": [true], "false": [false]}
    kind["best_f1"]["all"] = {"threshold": 0.697, "f1": 6 / 7, "precision": 1.0, "recall": 0.75}
    data["sets"][0]["objects"] = [4]
    page = show(data)
    assert page.text("#score-value") == "0.69" and page.text("#f1") == "0.86"
    assert page.text("#best") == "best F1 at 0.69"


def test_an_object_that_does_not_count_is_neither_drawn_nor_missed(show):
    data = example_data(pictures=1)
    picture = data["sets"][0]["pictures"][0]
    picture["objects"]["counted"]["segm"][0] = 0
    page = show(data)
    drawn(page, "#cards .card canvas")
    assert page.find("#cards .card canvas").get_attribute("data-drawn") == "3"
    assert page.text("#cards .line").startswith("3 objects")
    page.choose("kind", "boxes")
    assert page.text("#cards .line").startswith("4 objects")


# ---- unusual data ----


def without_values(data: dict[str, Any]) -> dict[str, Any]:
    """Nothing could be computed."""
    for chosen in data["sets"]:
        for kind in chosen["kinds"].values():
            kind["figures"] = dict.fromkeys(kind["figures"])
            kind["by_class"]["rows"] = [[None] * 7 for _ in chosen["classes"]]
            kind["precision"] = {key: [None] * len(chosen["classes"]) for key in kind["precision"]}
            kind["best_f1"] = {"all": None, "by_class": [None] * len(chosen["classes"])}
            kind["calibration"]["error"] = {"all": None, "by_class": [None] * len(chosen["classes"])}
            kind["errors"] |= {"ap50": None, "gain_false": None, "gain_missed": None}
            for error in kind["errors"]["types"]:
                error["gain"] = None
        for picture in chosen["pictures"]:
            picture["quality"] = None
    return data


def without_a_run(data: dict[str, Any]) -> dict[str, Any]:
    data["run"] = {"repeat": "", "facts": [], "timing": [], "starts": []}
    return data | {"config": []}


LONG = [f"a category with a very long name that goes on, number {k} <b>&amp; \"quoted\" 'twice' 🙂" for k in range(80)]
UNUSUAL = {
    "no sets": lambda: example_data(sets=0),
    "nothing at all": lambda: without_a_run(example_data(sets=0, points=0, evaluations=0)),
    "boxes alone": lambda: example_data(kinds=["bbox"]),
    "no detections": lambda: example_data(detections=False),
    "no objects": lambda: example_data(objects=0),
    "no objects and no detections": lambda: example_data(objects=0, detections=False),
    "no pictures": lambda: example_data(pictures=0),
    "one category": lambda: example_data(classes=["cell"]),
    "many categories with long names": lambda: example_data(classes=LONG, pictures=30),
    "a word without a break": lambda: example_data(title=300 * "x", classes=[300 * "y", 200 * "z"]),
    "no values": lambda: without_values(example_data()),
    "one evaluation": lambda: example_data(evaluations=1, points=1),
    "a long history": lambda: example_data(points=2000, evaluations=300),
    "several sets": lambda: example_data(sets=3, keypoints=True),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_data_open_on_a_narrow_screen(show, name: str):
    data = UNUSUAL[name]()
    page = show(data, width=400)
    assert page.text("h1") == data["title"]
    sections = ["errors", "pictures", "curves", "tables"] if data["sets"] else []
    found = [one.get_attribute("id") for one in page.all("main > section")]
    assert found == [*sections, "training", "run"]
    assert page.js("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0
    if data["sets"]:
        page.score(0.01)
    if page.all("#cards .card"):
        drawn(page, PREDICTIONS)
        page.js("document.querySelector('#cards .card').click()")
        page.wait("document.getElementById('viewer').open")
        assert page.js("return document.getElementById('viewer').scrollWidth") <= 400
        page.settle()
