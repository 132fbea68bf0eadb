"""The record holds together, and every page says what it says."""

import json
import re
import shutil
from pathlib import Path

import pytest

from experiments.cli import run_command
from experiments.record import Command, render
from experiments.records.data import FOLDER, RESULTS, RecordError, load_record, numbers
from experiments.records.pages import END, PLACEHOLDER, START, TEMPLATES, fill, make_pages, show

ROOT = Path(__file__).parents[2]
STUDIES = load_record(ROOT)
SECTIONS = ("Question", "Prediction", "Protocol", "Command", "Commit", "Hardware and versions", "Results", "Conclusion")
RUN_IT = "run python -m experiments.record"
NO_FIGURES = {"3.11", "0.10", "3"}
"""Versions that the README asks for, and `python3`."""


def run(root, *flags):
    return run_command(Command, render, "experiments.record", "", ["--root", str(root), *flags])


def prose(text):
    """A page without code, links and placeholders."""
    for pattern in (r"```.*?```", r"<!--.*?-->", r"`[^`]*`", r"\]\([^)]*\)", PLACEHOLDER.pattern):
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


def figures(text):
    """Numbers of a page's prose as written; names such as H200, v1 and S_0 hold none."""
    found = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])", re.sub(r"\bCIFAR-\d+|\b\w*-?\d+-bit", " ", prose(text)))
    return [text.rstrip(",") for text in found]


HELD = {number for study in STUDIES.values() for number in numbers(study.results)}


def is_held(text):
    """Whether a figure as written is one of the record's, rounded."""
    value, decimals = float(text.replace(",", "")), len(text.partition(".")[2])
    if value in HELD:
        return True
    sizes = (number / 1e6 for number in HELD if number >= 1e5)
    return any(abs(round(number, decimals) - value) < 1e-9 for held in (HELD, sizes) for number in held)


@pytest.fixture
def copy(tmp_path):
    """The record and its pages, to be changed."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def results_of(copy, study="ablation"):
    (path,) = (copy / FOLDER).glob(f"*-{study}/{RESULTS}")
    return path, json.loads(path.read_text())


class TestPages:
    def test_are_what_the_record_says(self):
        for path, text in make_pages(ROOT).items():
            assert path.read_text() == text, f"{path}: {RUN_IT}"
        assert run(ROOT, "--check") == 0, f"the picture: {RUN_IT}"

    @pytest.mark.parametrize("page", [*TEMPLATES, "docs/records/2026-11-22-ablation/README.md", "docs/frontier.png"])
    def test_check_names_what_differs(self, copy, page, capsys):
        before = (copy / page).read_bytes()
        (copy / page).write_bytes(
            b"" if page.endswith("png") else before.replace(b"74.14", b"74.15").replace(b"39.62", b"39.63")
        )
        assert run(copy, "--check") == 1
        complaint = capsys.readouterr().err
        assert page in complaint and RUN_IT in complaint
        assert run(copy) == 0
        assert run(copy, "--check") == 0

    def test_follow_a_changed_figure(self, copy, capsys):
        path, results = results_of(copy)
        results["rows"][1] |= {"top1": [11.11, 11.11, 11.11], "top1_mean": 11.11, "top1_std": 0.0}
        path.write_text(json.dumps(results))
        assert run(copy, "--check") == 1
        assert "results.md" in capsys.readouterr().err
        assert run(copy) == 0
        assert "11.11 ± 0.00" in (copy / "docs/results.md").read_text()
        assert run(copy, "--check") == 0

    @pytest.mark.parametrize("page", TEMPLATES)
    def test_no_figure_is_typed_by_hand(self, page):
        template = (ROOT / TEMPLATES[page]).read_text()
        typed = [text for text in figures(template) if "." in text or "," in text]
        assert [text for text in typed if text not in NO_FIGURES and not is_held(text)] == []

    def test_every_figure_of_the_readme_is_in_the_record(self):
        assert [
            text for text in figures((ROOT / "README.md").read_text()) if text not in NO_FIGURES and not is_held(text)
        ] == []

    def test_the_readme_is_short(self):
        text = (ROOT / "README.md").read_text()
        assert len(text.split()) <= 1_200
        assert len(text.splitlines()) <= 150

    @pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/records/README.md"])
    def test_links_lead_somewhere(self, page):
        links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
        assert links
        for link in links:
            assert ((ROOT / page).parent / link).exists(), link


class TestRecord:
    @pytest.mark.parametrize("name", STUDIES)
    def test_a_study_has_every_section(self, name):
        text = (STUDIES[name].folder / "README.md").read_text()
        assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == SECTIONS
        for section in text.split("\n## ")[1:]:
            assert len(section.split("\n", 1)[1].strip()) >= 4, f"{name}: {section[:20]} says nothing"

    @pytest.mark.parametrize("name", STUDIES)
    def test_its_prose_has_no_figure_of_its_own(self, name):
        before, _, rest = (STUDIES[name].folder / "README.md").read_text().partition(START)
        typed = [text for text in figures(before + rest.partition(END)[2]) if "." in text]
        versions = set(re.findall(r"\d+\.\d+(?=\.\d)", before)) | {text for text in typed if "." + text in before}
        assert [text for text in typed if text not in versions and not is_held(text)] == []

    def test_the_index_has_each_study_once(self):
        index = (ROOT / FOLDER / "README.md").read_text()
        for study in STUDIES.values():
            assert index.count(f"]({study.folder.name}/README.md)") == 1, study.folder.name
        assert len(re.findall(r"\]\(\d{4}-[^)]*\)", index)) == len(STUDIES)

    def test_dates_are_dates_of_commits(self):
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", study.results["date"]) for study in STUDIES.values())

    def test_sources_of_other_rows_exist(self):
        for study in STUDIES.values():
            for row in study.results["rows"]:
                if "of" in row:
                    other, _, name = row["of"].rpartition("/")
                    assert name in STUDIES[other or study.results["study"]].rows

    def test_logs_agree_with_the_figures(self):
        logs = list((ROOT / FOLDER).glob("*/runs/*/summary.json"))
        assert len(logs) >= 10
        for path in logs:
            assert round(100 * json.loads(path.read_text())["top1"], 2) in HELD, path

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (lambda results: results.pop("date"), "has no 'date'"),
            (lambda results: results.update(date="2026-11-21"), "its folder must be named so"),
            (lambda results: results["rows"].append(results["rows"][0]), "a name of its own"),
            (lambda results: results["rows"][0].update(status="done"), "status must be"),
            (lambda results: results["rows"][0].update(top1=39.62), "one percentage a seed"),
            (lambda results: results["rows"][0].update(seeds=[0]), "3 figures of top1 for 1 seeds"),
            (
                lambda results: results["rows"][0].update(top1_mean=39.7),
                "top1_mean and top1_std must be 39.62 and 2.14",
            ),
        ],
    )
    def test_refuses_what_contradicts_itself(self, copy, capsys, change, complaint):
        path, results = results_of(copy)
        change(results)
        path.write_text(json.dumps(results))
        assert run(copy, "--check") == 1
        assert complaint in capsys.readouterr().err

    def test_refuses_a_folder_without_figures(self, copy, capsys):
        results_of(copy)[0].unlink()
        assert run(copy) == 1
        assert "is missing" in capsys.readouterr().err

    def test_refuses_another_folder(self, tmp_path, capsys):
        assert run(tmp_path) == 1
        assert "root of the repository" in capsys.readouterr().err


class TestFill:
    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("{{ablation/default/top1}}", "39.62 ± 2.14"),
            ("{{ablation/default/top1.mean}}", "39.62"),
            ("{{ablation/default/top1.seeds}}", "42.03, 38.87, 37.95"),
            ("{{ablation/default/top1.1}}", "38.87"),
            ("{{ablation/scale-0.03/top1.0}}", "42.50"),
            ("{{published/tiniest/top1|1}}", "94.4"),
            ("{{equal-bytes/c64-velocity/bytes}}", "23,336"),
            ("{{equal-bytes/c64-velocity/macs}}", "37.2"),
            ("{{full-set-gpu/full/macs}}", "2,272"),
            ("{{equal-bytes/c64-velocity/top1 - equal-bytes/c64-slim/top1}}", "8.8"),
            ("{{equal-bytes/c64-slim/top1 - equal-bytes/c64-velocity/top1|2}}", "−8.81"),
            ("{{equal-bytes/c64-velocity/macs / equal-bytes/c64-slim/macs|0}}", "21"),
            ("{{full-set-gpu/figures/standard-error:0}}", "0.24"),
        ],
    )
    def test_shows_figures(self, template, text):
        assert fill(template, STUDIES) == text

    @pytest.mark.parametrize(
        ("template", "complaint"),
        [
            ("{{ablation/default}}", "must be study/row/field"),
            ("{{ablation/other/top1}}", "is not in the record"),
            ("{{nothing/default/top1}}", "is not in the record"),
            ("{{ablation/default/top1.7}}", "is not in the record"),
            ("{{ablation/default/label - ablation/default/top1}}", "is no number"),
        ],
    )
    def test_refuses_what_is_not_there(self, template, complaint):
        with pytest.raises(RecordError, match=complaint):
            fill(template, STUDIES)

    def test_shows_lists_and_texts(self):
        assert show("", [1, [2.5, 0.25]]) == "1, (2.5, 0.25)"
        assert show("", "soon") == "soon"
        assert show("", {"a": 1200}) == "a: 1,200"


def test_numbers_are_found_everywhere():
    assert sorted(numbers({"a": [1, {"b": "2,000 and 0.5"}], "c": True, "d": None})) == [0.5, 1, 2000]
