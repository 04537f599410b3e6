"""Positions of data iterators that are restored on another number of hosts; and what hosts do in turns."""

import json

import jax
import pytest

from framer_jax.training import data_position, hosts
from framer_jax.training.data_position import restore_iterator
from framer_jax.training.digests import DamagedCheckpointError
from framer_jax.training.hosts import first_host_first, host_rows
from tests.support import training_toys as toys


class Iterator:
    def __init__(self):
        self.state = {"next_index": 0}

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


def write(folder, states):
    (folder / "data").mkdir()
    for index, state in enumerate(states):
        (folder / "data" / f"process_{index}-of-{len(states)}.json").write_text(json.dumps(state))


def restored(folder, index, count, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(data_position, "any_problem", lambda problem: problem)
    iterator = Iterator()
    restore_iterator(folder, iterator)
    return iterator.state["next_index"]


@pytest.mark.parametrize("saved", [1, 2, 4])
@pytest.mark.parametrize("present", [1, 2, 4])
def test_equal_positions_fit_any_number_of_hosts(tmp_path, monkeypatch, saved, present):
    write(tmp_path, [{"next_index": 7}] * saved)
    assert [restored(tmp_path, index, present, monkeypatch) for index in range(present)] == [7] * present


def test_positions_that_differ_fit_as_many_hosts_only(tmp_path, monkeypatch):
    write(tmp_path, [{"next_index": 7}, {"next_index": 8}])
    assert [restored(tmp_path, index, 2, monkeypatch) for index in range(2)] == [7, 8]
    with pytest.raises(ValueError, match="was saved with 2 hosts, whose data iterators are at different positions"):
        restored(tmp_path, 0, 1, monkeypatch)


@pytest.mark.parametrize("damaged", ["", "{", None])
def test_a_damaged_or_missing_position(tmp_path, monkeypatch, damaged):
    write(tmp_path, [{"next_index": 7}] * 2)
    file = tmp_path / "data" / "process_1-of-2.json"
    file.unlink() if damaged is None else file.write_text(damaged)
    with pytest.raises(DamagedCheckpointError, match=r"\(data/process_1-of-2.json cannot be read\)"):
        restored(tmp_path, 0, 1, monkeypatch)
    for each in (tmp_path / "data").iterdir():
        each.rename(each.with_name("process_0-of-x.json"))
    with pytest.raises(DamagedCheckpointError, match=r"\(data is empty\)"):
        restored(tmp_path, 0, 1, monkeypatch)


@pytest.mark.parametrize("first", [True, False])
def test_a_problem_of_one_host_is_one_of_all(monkeypatch, first):
    """What each host sees is written down by the test in place of the exchange."""
    calls = []

    def action():
        calls.append(True)
        return "result"

    monkeypatch.setattr(jax, "process_index", lambda: 0 if first else 1)
    assert first_host_first(action) == "result"
    assert calls == [True]
    other = iter(["", "as process 1 reports"] if first else ["as process 0 reports"])
    monkeypatch.setattr(hosts, "any_problem", lambda problem: problem or next(other))
    with pytest.raises(ValueError, match=rf"not every host can read the data .*\(as process {int(first)} reports\)"):
        first_host_first(action)
    assert len(calls) == (2 if first else 1)  # the second host does not begin

    def fails():
        raise FileNotFoundError("there is no folder")

    other = iter([""])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        first_host_first(fails)


def test_one_host_loads_all_rows():
    assert host_rows(toys.settings(mesh={"data": 2, "fsdp": 4})) == list(range(8))
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        host_rows(toys.settings(mesh={"data": 16}))
    with pytest.raises(ValueError, match=r"training.global_batch 8 is not divisible"):
        host_rows(toys.settings(mesh={"data": 1}, gradient_accumulation_steps=3))
