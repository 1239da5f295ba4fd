"""The folder of a run: what a full disk, a kill, a wrong byte or a foreign file leaves, and what is said of it."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("tyro")
from experiments import _folder
from experiments._errors import BadInput, NotWritten
from experiments._folder import Folder, History
from experiments._run import exit_status

CONFIG = {"seed": 0}


def stages(folder):
    """A run of two stages; returns what they computed."""
    arrays = folder.array_stage("a.npz", lambda: {"x": np.arange(3.0)})
    return arrays["x"].sum(), folder.json_stage("b.json", lambda: {"y": 4})["y"]


def new(path, **config):
    folder = Folder(path, {**CONFIG, **config}, resume=False)
    assert stages(folder) == (3.0, 4)
    return folder


def again(path):
    return Folder(path, CONFIG, resume=True)


def test_what_may_change_is_recorded(tmp_path):
    """Stages stay those of the run; a later resume with the same values needs no leave."""
    new(tmp_path, rate=0.2, atoms=8)
    resume = lambda changeable=(), **config: Folder(tmp_path, {**CONFIG, **config}, resume=True, changeable=changeable)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(BadInput, match=r"rate is 0\.1, there 0\.2.*--accept-changes"):
        resume(rate=0.1, atoms=8)
    with pytest.raises(BadInput, match="atoms is 9, there 8"):
        resume(["rate"], rate=0.1, atoms=9)
    assert (tmp_path / "config.json").read_bytes() == before
    assert not resume(["rate"], rate=0.2, atoms=8).changed
    for changeable in (["rate"], []):
        folder = resume(changeable, rate=0.1, atoms=8)
        assert folder.changed
        assert stages(folder) == (3.0, 4)
        del folder  # its lock
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"] == {"seed": 0, "rate": 0.2, "atoms": 8}
    assert written["changes"] == [{"rate": 0.1}]
    with pytest.raises(BadInput, match=r"rate is 0\.2, there 0\.1"):
        resume(rate=0.2, atoms=8)


def test_devices_of_another_kind(tmp_path):
    new(tmp_path)
    file = tmp_path / "config.json"
    known = json.loads(file.read_text())
    known["environment"]["devices"] = ["NVIDIA H200"]
    file.write_text(json.dumps(known))
    with pytest.raises(BadInput, match=r"begun on NVIDIA H200; here is cpu, which rounds otherwise\. Wanted devices"):
        again(tmp_path)
    known["environment"]["devices"] = ["cpu", "cpu"]  # more or fewer of them
    file.write_text(json.dumps(known))
    assert stages(again(tmp_path)) == (3.0, 4)


def flip(path):
    """Changes a number in a file, which can still be read."""
    content = path.read_bytes()
    changed = content.replace(b"4", b"5") if path.suffix == ".json" else content.replace(b"\0\x40", b"\x08\x40")
    assert changed != content
    path.write_bytes(changed)


@pytest.mark.parametrize("name", ["a.npz", "b.json"])
def test_stage_files_that_are_not_the_runs(tmp_path, name):
    """A wrong number, that of another run, that of another stage; removed ones are made again."""
    new(tmp_path / "run")
    new(tmp_path / "other", seed=1)
    good = (tmp_path / "run" / name).read_bytes()
    flip(tmp_path / "run" / name)
    with pytest.raises(BadInput, match=rf"{name} is damaged or of another run.*Restore a copy, or delete it"):
        stages(again(tmp_path / "run"))
    (tmp_path / "run" / name).unlink()
    assert stages(again(tmp_path / "run")) == (3.0, 4)
    assert (tmp_path / "run" / name).read_bytes() == good
    for file in (name, "checksums.json"):
        shutil.copy(tmp_path / "other" / file, tmp_path / "run" / file)
    with pytest.raises(BadInput, match="is damaged or of another run"):
        stages(again(tmp_path / "run"))


def test_two_runs_in_one_folder(tmp_path):
    """The second is told; what a killed one had half written is removed by the next."""
    path = tmp_path / "run"
    first = new(path)
    (path / "a.npz.123.part").write_bytes(b"half")
    for _ in range(2):
        with pytest.raises(BadInput, match=r"Another run is writing to the output folder .*wanted one at a time"):
            again(path)
    del first
    assert stages(again(path)) == (3.0, 4)
    assert not list(path.glob("*.part"))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a.npz": 1'])
def test_damaged_checksums(tmp_path, content):
    new(tmp_path)
    (tmp_path / "checksums.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"checksums\.json .*wanted the file that the run wrote"):
        stages(again(tmp_path))


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"5\n", b'{"update": 2}\n', b'{"update": 2, "wall_time": "x"}\n'])
def test_a_torn_history(tmp_path, capsys, text):
    new(tmp_path)
    (tmp_path / "checkpoint.eqx").touch()
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"update": 1, "wall_time": 0.5}\n' + text)
    again(tmp_path)
    history = History(path)
    assert "is torn" in capsys.readouterr().err
    history.write([{"update": 1}, {"update": 2}])
    times = [json.loads(line)["wall_time"] for line in path.read_text().splitlines()]
    assert times in ([0.5, None], [None, None])  # nothing can be read of a file that is no text


@pytest.mark.parametrize("name", ["", "-pair"])
def test_a_history_without_its_checkpoint(tmp_path, name):
    new(tmp_path)
    (tmp_path / f"history{name}.jsonl").write_text('{"update": 1}\n{"update": 2}\n')
    with pytest.raises(BadInput, match=rf"checkpoint{name}\.eqx is missing, although history{name}\.jsonl has 2"):
        again(tmp_path)


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    """It is full after any file of the run: the message says so, and the run goes on to the same once there is room."""
    writes = iter(())

    def full(descriptor):
        if not next(writes, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for count in range(4):  # config.json, a.npz, checksums.json, b.json
        path = tmp_path / str(count)
        writes = iter([True] * count)
        with monkeypatch.context() as patch:
            patch.setattr(_folder.os, "fsync", full)
            assert exit_status(lambda path=path: new(path)) == (2 if count == 0 else 1)
        assert "No space left on device" in capsys.readouterr().err
        assert not list(path.glob("*.part"))
        assert stages(again(path) if count else Folder(path, CONFIG, resume=False)) == (3.0, 4)
    (tmp_path / "gone").mkdir()
    folder = Folder(tmp_path / "gone", CONFIG, resume=False)
    shutil.rmtree(folder.path)
    with pytest.raises(NotWritten, match="wanted a folder that is there"):
        stages(folder)
