import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.broker.process import (
    Record,
    read_record,
    recorded_process,
    running,
    spawn,
    unrecorded_process,
    write_record,
)

MARKER = "-Dheadrace.broker.home=/state of this test"


@contextmanager
def program(*arguments):
    command = [sys.executable, "-c", "print(flush=True); input()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


@given(st.builds(Record, pid=st.integers(), port=st.integers(), started_at=st.floats(0, 1e10)))
def test_a_record_is_read_as_it_was_written(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "broker.json"
    write_record(path, record)
    assert read_record(path) == record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "port": 1}', "null"])
def test_a_damaged_record_counts_as_none(tmp_path, text):
    path = tmp_path / "broker.json"
    path.write_text(text)
    assert read_record(path) is None


def test_no_record_is_none(tmp_path):
    assert read_record(tmp_path / "broker.json") is None
    assert recorded_process(None, MARKER) is None


def test_a_live_process_with_the_marker_is_the_broker():
    with program(MARKER) as child:
        found = recorded_process(Record(child.pid, 1, 0.0), MARKER)
        assert found is not None
        assert found.pid == child.pid


def test_a_pid_taken_over_by_another_program_is_stale():
    with program("-Dheadrace.broker.home=/elsewhere") as child:
        assert recorded_process(Record(child.pid, 1, 0.0), MARKER) is None


def test_a_process_that_ended_is_stale_even_while_nobody_has_reaped_it():
    with program(MARKER) as child:
        process = psutil.Process(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert recorded_process(Record(child.pid, 1, 0.0), MARKER) is None
        assert unrecorded_process(MARKER) is None
        assert not running(process)
        child.wait()
        assert recorded_process(Record(child.pid, 1, 0.0), MARKER) is None


@pytest.mark.parametrize(("skew_s", "ours"), [(0.0, True), (1.5, True), (60.0, False)])
def test_the_start_time_decides_where_the_command_line_cannot_be_read(monkeypatch, skew_s, ours):
    def refused(self):
        raise psutil.AccessDenied(self.pid)

    with program(MARKER) as child:
        record = Record(child.pid, 1, psutil.Process(child.pid).create_time() + skew_s)
        monkeypatch.setattr(psutil.Process, "cmdline", refused)
        assert (recorded_process(record, MARKER) is not None) is ours


def test_a_broker_whose_record_was_lost_is_found_by_its_marker():
    with program(MARKER) as child:
        found = unrecorded_process(MARKER)
        assert found is not None
        assert found.pid == child.pid


def test_a_spawned_program_leads_its_own_session_and_writes_to_its_file(tmp_path):
    out = tmp_path / "out"
    out.write_text("of an earlier start")
    code = "import os, sys; print(os.getsid(0) == os.getpid()); print('e', file=sys.stderr)"
    spawn([sys.executable, "-uc", code], out).wait(30)
    assert out.read_text() == "True\ne\n"
