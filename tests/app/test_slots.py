"""Workers of one machine find a folder and a port of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.slots import StartUpError, static_socket, take_slot, web_socket


def test_a_port_is_held_from_the_moment_it_is_found() -> None:
    with web_socket("127.0.0.1", None) as first, web_socket("127.0.0.1", None) as second:
        assert first.getsockname()[1] < second.getsockname()[1]
        with pytest.raises(StartUpError, match="is taken; stop what uses it or set HEADRACE"):
            web_socket("127.0.0.1", first.getsockname()[1])


def test_an_address_of_another_machine_is_one_clear_sentence() -> None:
    with pytest.raises(
        StartUpError, match=r"cannot listen on 192\.0\.2\.1:6066: .*HEADRACE_WEB_BIND"
    ):
        web_socket("192.0.2.1", 6066)


def test_each_worker_has_a_folder_and_an_id_that_outlives_it(tmp_path: Path) -> None:
    first, second = take_slot(tmp_path), take_slot(tmp_path)
    assert (first.number, second.number) == (0, 1)
    assert first.worker_id != second.worker_id
    assert (first.folder / "id").read_text() == first.worker_id


def test_a_state_folder_that_is_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("not a folder")
    with pytest.raises(StartUpError, match="make it writable or set HEADRACE_HOME"):
        take_slot(home)


def test_a_static_member_listens_where_it_listened_before(tmp_path: Path) -> None:
    slot = take_slot(tmp_path)
    with web_socket("127.0.0.1", None), static_socket(slot, "127.0.0.1", None) as first:
        port = first.getsockname()[1]
    with static_socket(slot, "127.0.0.1", None) as again:
        assert again.getsockname()[1] == port
    with web_socket("127.0.0.1", port), static_socket(slot, "127.0.0.1", None) as elsewhere:
        moved = elsewhere.getsockname()[1]
        assert moved != port
    with static_socket(slot, "127.0.0.1", None) as kept:
        assert kept.getsockname()[1] == moved


@pytest.mark.parametrize("garbage", ["", "x", "99999999", "-1"])
def test_a_port_file_that_is_no_port_is_begun_anew(tmp_path: Path, garbage: str) -> None:
    slot = take_slot(tmp_path)
    (slot.folder / "port").write_text(garbage)
    with static_socket(slot, "127.0.0.1", None) as found:
        assert (slot.folder / "port").read_text() == str(found.getsockname()[1])
