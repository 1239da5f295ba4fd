"""Reports of runs: what they hold, alone and side by side, and that they stop no run."""

import base64
import html.parser
import json
import re

import pytest

from experiments import _html, _report, report

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Checked(html.parser.HTMLParser):
    """Every element that is opened is closed, in order; nothing comes from elsewhere."""

    def __init__(self, page):
        super().__init__()
        self.open, self.words = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            assert name not in ("href", "onclick")
            assert name != "src" or value.startswith("data:image/png;base64,")
        assert tag not in ("script", "link", "iframe")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def words(page):
    return " ".join(" ".join(Checked(page).words).split())


@pytest.fixture
def folder(tmp_path):
    def make(name="run", *, preset="quick", sigma=0.338, done=True):
        run = tmp_path / name
        run.mkdir()
        config = {"experiment": "lj_diffusion", "preset": preset, "sigma": sigma, "updates": 4}
        command = ["experiments/__main__.py", "lj_diffusion", "--sigma", str(sigma), "--out", "a b"]
        environment = {"versions": {"jax": "0.10.1"}, "git": "abc123 with changes", "command": command, "cores": 2}
        (run / "config.json").write_text(json.dumps({"config": config, "environment": environment}))
        line = lambda k: {
            "update": k,
            "sigma": 0.3 + k,
            "loss": 1 / k,
            "loss_error": 0.1,
            "wall_time": 60.0,
            "who": "<b>",
        }
        (run / "history.jsonl").write_text("".join(json.dumps(line(k)) + "\n" for k in (1, 2, 3)))
        if done:
            goals = [
                {"name": "D <after> the fit", "value": 2.268e-9, "error": 3.224e-11, "wanted": "2.2e-9", "met": True},
                {"name": "time", "value": None, "error": None, "wanted": "at most 5", "met": None},
            ]  # fmt: skip
            fitted = {"sigma": 0.34, "sigma_error": 0.0012, "epsilon": 0.98, "diffusion": 2.3e-9}
            target = {"sigma": 0.339, "epsilon": 0.99, "diffusion": 2.2e-9, "source": "<script>alert(1)</script>"}
            (run / "summary.json").write_text(json.dumps({"final": fitted, "target": target, "goals": goals}))
            (run / "path.png").write_bytes(PIXEL)
        return run

    return make


def test_a_report_says_what_the_folder_holds(folder):
    run = folder()
    page = _report.write(run).read_text("utf-8")
    told = words(page)
    assert "<script" not in page
    for wanted in (
        "Refine a Lennard-Jones potential until the liquid diffuses as it should.",
        "The run has ended.",
        "D <after> the fit wanted: 2.2e-9 (2.268 ± 0.032)·10⁻⁹ ✓ met",
        "1 of 1 met; ± are standard errors.",
        "final 0.3400 ± 0.0012 0.98 2.3e-09 – target 0.339 0.99 2.2e-09 <script>alert(1)</script>",
        "The initial σ, nm.",
        "git checkout abc123 pip install -e .[experiments]",
        "python -m experiments lj_diffusion --sigma 0.338 --out 'a b'",
        "changes that were not committed",
        "jax 0.10.1",
    ):
        assert wanted in told, wanted
    assert base64.b64encode(PIXEL).decode() in page
    assert "http-equiv" not in page
    assert len(re.findall("<polyline", page)) == 2  # σ and the loss; words have no curve
    assert list(run.glob("*.part")) == []


def test_a_report_while_the_run_goes_on(folder):
    page = _report.report(folder(done=False), None)
    told = words(page)
    assert 'http-equiv="refresh"' in page
    assert "The run goes on. 3 updates of 4. About 1.0 minutes of updates are left." in told
    assert "Goals" not in told
    stopped = words(_report.report(folder("stopped", done=False), "It failed: an explosion."))
    assert "The run has stopped." in stopped
    assert "It failed: an explosion." in stopped
    assert "has not ended: there is no summary.json" in words(_report.report(folder("killed", done=False), "ended"))
    assert "no physics" in words(_report.report(folder("smoke", preset="smoke"), "ended"))


def test_reports_are_written_seldom_and_stop_no_run(folder, capsys, monkeypatch):
    run, page = folder(done=False), []
    monkeypatch.setattr(_report, "report", lambda *of: page.append(of) or "")
    _report.note(run / "history.jsonl")
    _report.note(run / "history.jsonl")
    assert len(page) == 1
    _report.note(run / "path.png")
    _report.note(run.parent / "no run.json")
    _report.end("ended")
    assert page == [(run, None), (run, None), (run, "ended")]
    monkeypatch.setattr(_report, "report", lambda *of: 1 / 0)
    _report.note(run / "path.png")
    _report.end("ended")
    assert "report.html cannot be written: ZeroDivisionError" in capsys.readouterr().err
    assert (run / "config.json").exists()


def test_damaged_folders_have_reports(folder):
    run = folder()
    for name in ("summary.json", "history.jsonl", "config.json"):
        (run / name).write_text("{")
    assert "has not ended" in words(_report.report(run, "ended"))


def test_runs_side_by_side(folder, tmp_path, capsys):
    one, other = folder("one"), folder("other", sigma=0.35)
    out = tmp_path / "both.html"
    assert report.main([str(one), str(other), "--out", str(out)]) == 0
    told = words(out.read_text("utf-8"))
    assert "sigma 0.338 0.35 What was found final.sigma 0.3400 ± 0.0012 0.3400 ± 0.0012" in told.replace(
        f"{one} {other} final", "final"
    )
    assert "updates" not in told.split("Where the configurations differ")[1].split("What was found")[0]
    assert out.read_text().count("data:image/png") == 2
    assert report.main([str(one)]) == 0
    assert (one / "report.html").exists()
    capsys.readouterr()
    assert report.main([str(tmp_path)]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_lists_of_one_length_are_one_table():
    """Values at the same temperatures stand beside one another, with their errors; what is long is folded."""
    points = {"temperature": [90, 100], "density": [1.38, 1.32], "density_error": [0.03, 0.02], "alone": [1, 2, 3]}
    (head, told, alone, numbers) = _html.tables_of({"points": points})
    assert words(told) == "temperature density 90 1.380 ± 0.030 100 1.320 ± 0.020"
    assert (words(head), words(alone), words(numbers)) == ("points", "points: alone", "1, 2, 3")
    many = {f"case {k}": {"x": [1, 2, k], "y": {"z": [1, 2, 3]}} for k in range(9)}
    assert _html.tables_of({"many": many})[0].startswith("<details><summary>many, in detail")


def test_numbers_with_errors():
    told = {
        (2.268e-9, 3.224e-11): "(2.268 ± 0.032)·10⁻⁹", (94.48, 0.171): "94.48 ± 0.17", (-2443.1, 149.4): "-2443 ± 149",
        (1.5e5, 2e3): "(1.500 ± 0.020)·10⁵", (0.0, 0.03): "0.000 ± 0.030", (3.0, 0.0): "3", (True, None): "yes",
        (None, None): "–", (12, None): "12", ("text", 1.0): "text",
    }  # fmt: skip
    assert {of: _html.number(*of) for of in told} == told
