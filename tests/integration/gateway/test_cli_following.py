"""The command line's follower against a gateway that cuts, repeats, skips and refuses: the text is right."""

from __future__ import annotations

import io
import sys

import pytest

from mainstem_api.cli import _following
from mainstem_api.cli._display import Piped
from mainstem_api.cli._following import Event, Follower, HoleError
from mainstem_api.cli._gateway import Gateway, GatewayError, UnreachableError
from mainstem_api.cli._progress import Progress
from mainstem_shared.model.cursors import parse
from support.fakes.scripted_gateway import Said, Script, ScriptedGateway
from support.processes.servers import free_port

STATE = {"content": [], "steps": [], "usage": None, "title": None, "action": None}


def created() -> Said:
    return ("1-0", "run.created", {"prev": "0-0"})


def started() -> Said:
    return ("2-0", "run.started", {"prev": "1-0"})


def delta(seq: int, text: str) -> Said:
    return (f"2-{seq}", "message.delta", {"part": 0, "text": text})


def state(cursor: str, kind: str, text: str, **more: object) -> Said:
    return (cursor, kind, {**STATE, "content": [{"type": "text", "text": text}], "text": text, **more})


def finished(text: str, prev: str = "2-2") -> Said:
    ending = {"status": "succeeded", "reason": "completed", "error": None}
    return state("3-0", "run.finished", text, prev=prev, **ending)


WHOLE = [created(), started(), delta(1, "a"), delta(2, "b"), finished("ab")]
BUSY = {"code": "store_unavailable", "title": "Unavailable", "detail": "The store does not answer."}


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at once: the tests are about what, not when."""
    monkeypatch.setattr(_following, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(_following, "LONGEST_DELAY_S", 0.005)


def follow(gateway: ScriptedGateway, after: str | None = None) -> tuple[list[Event], list[str | None]]:
    trouble: list[str | None] = []
    with Gateway(gateway.url) as client:
        events = list(Follower(client, "r", after=after, on_trouble=trouble.append))
    return events, trouble


def cursors_of(events: list[Event]) -> list[str]:
    return [str(event.cursor) for event in events]


@pytest.mark.parametrize("ending", ["reset", "clean"])
@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_wherever_the_stream_breaks_it_goes_on_after_the_last_event(cut: int, ending: str):
    """Cut after any event, by reset or clean end: it asks again with its cursor, and shows nothing twice."""
    with ScriptedGateway(Script(WHOLE[:cut], ending), Script(WHOLE[cut:])) as gateway:
        events, _ = follow(gateway)
    assert cursors_of(events) == [said[0] for said in WHOLE]
    assert gateway.asked == [None, WHOLE[cut - 1][0] if cut else None]


def test_what_was_seen_already_is_not_shown_again():
    """A gateway that starts over instead of after the cursor is asked again, not believed."""
    with ScriptedGateway(Script(WHOLE[:4], "reset"), Script(WHOLE), Script(WHOLE[4:])) as gateway:
        events, _ = follow(gateway)
    assert cursors_of(events) == [said[0] for said in WHOLE]
    assert gateway.asked == [None, "2-2", "2-2"]


def test_a_hole_is_asked_for_again():
    """An event that does not follow the cursor is not shown; the missing one is fetched."""
    with ScriptedGateway(Script([*WHOLE[:2], WHOLE[3]], "reset"), Script(WHOLE[2:])) as gateway:
        events, _ = follow(gateway)
    assert cursors_of(events) == [said[0] for said in WHOLE]
    assert gateway.asked == [None, "2-0"]


def test_a_hole_that_stays_is_an_error_not_a_loop():
    """A gateway that keeps leaving an event out is given up, naming the place."""
    with (
        ScriptedGateway(Script([created()], "reset"), Script([delta(2, "b")], "reset")) as gateway,
        pytest.raises(HoleError, match="1-0"),
    ):
        follow(gateway)


def test_a_snapshot_stands_in_for_what_is_missing():
    """A state needs no predecessor: it replaces, and the rest follows it."""
    snapshot = state("2-1", "snapshot", "a")
    with ScriptedGateway(Script([created()], "reset"), Script([snapshot, *WHOLE[3:]])) as gateway:
        events, _ = follow(gateway)
    assert cursors_of(events) == ["1-0", "2-1", "2-2", "3-0"]


def test_a_temporary_refusal_is_waited_out_and_told():
    """503 in the middle of a run is trouble that passes; the display learns of both ends of it."""
    with ScriptedGateway(
        Script(WHOLE[:2], "reset"), Script(status=503, problem=BUSY), Script(WHOLE[2:])
    ) as gateway:
        events, trouble = follow(gateway)
    assert len(events) == len(WHOLE)
    assert "The store does not answer." in trouble
    assert trouble[-1] is None


def test_nothing_after_the_end_is_the_end():
    """204 says that the run was over at this cursor."""
    with ScriptedGateway(Script(status=204)) as gateway:
        assert follow(gateway, after="3-0")[0] == []
    assert gateway.asked == ["3-0"]


def test_a_refusal_ends_it():
    """404 is raised with its code; it is not asked again."""
    problem = {"code": "not_found", "title": "Not found", "detail": "No such run."}
    with ScriptedGateway(Script(status=404, problem=problem)) as gateway:
        with pytest.raises(GatewayError, match="No such run") as refusal:
            follow(gateway)
        assert refusal.value.code == "not_found"
        assert len(gateway.asked) == 1


def test_nobody_at_the_address_is_told_at_once():
    """Never reached, a gateway is more likely misspelt than restarting."""
    with Gateway(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(UnreachableError):
        list(Follower(client, "r"))


# -- what a pipe gets


def piped(
    said: list[Said], capsysbinary: pytest.CaptureFixture[bytes], after: str | None = None
) -> tuple[str, str]:
    progress = Progress(run_id="r", cursor=parse(after or "0-0"))
    with ScriptedGateway(Script(said)) as gateway, Gateway(gateway.url) as client, Piped(progress) as display:
        for event in Follower(client, "r", after=after):
            display.show(event)
    display.outcome()
    captured = capsysbinary.readouterr()
    return captured.out.decode(), captured.err.decode()


def test_a_pipe_gets_the_text_and_a_newline(capsysbinary: pytest.CaptureFixture[bytes]):
    """Stdout is the text, then one newline; status lines and the outcome are on stderr."""
    out, err = piped(WHOLE, capsysbinary)
    assert out == "ab\n"
    assert [line.partition(" in ")[0] for line in err.splitlines()] == ["r: running", "r: succeeded"]


def test_a_pipe_gets_what_only_the_final_event_has(capsysbinary: pytest.CaptureFixture[bytes]):
    """Text that a state adds to what was shown is shown once, whichever event brings it."""
    out, _ = piped([created(), state("2-1", "snapshot", "ab"), finished("abc", prev="2-1")], capsysbinary)
    assert out == "abc\n"


def test_a_text_that_was_replaced_is_said_to_be(capsysbinary: pytest.CaptureFixture[bytes]):
    """A resync that lost text starts over on a line of its own, and stderr says so."""
    out, err = piped([*WHOLE[:4], state("4-0", "resync", "aX"), finished("aX")], capsysbinary)
    assert out == "ab\naX\n"
    assert "replaced" in err


def test_after_a_cursor_only_what_follows_is_shown(capsysbinary: pytest.CaptureFixture[bytes]):
    """Begun late, a reader does not know the text before; the final state that follows brings nothing new."""
    out, err = piped(WHOLE[3:], capsysbinary, after="2-1")
    assert out == "b\n"
    assert "replaced" not in err


def test_after_a_cursor_a_snapshot_is_shown_whole(capsysbinary: pytest.CaptureFixture[bytes]):
    """Begun late, nobody can tell where in a snapshot's text the reader stood: all of it, and a word about it."""
    out, err = piped([state("2-2", "snapshot", "ab"), finished("abc")], capsysbinary, after="2-1")
    assert out == "abc\n"
    assert "replaced" in err


def test_half_a_surrogate_pair_does_not_stop_a_pipe(capsysbinary: pytest.CaptureFixture[bytes]):
    """What cannot be written is replaced, not raised."""
    out, _ = piped([*WHOLE[:3], delta(2, "\ud83d"), finished("a\ud83d")], capsysbinary)
    assert out == "a?\n"


def test_stdout_without_a_terminal_is_a_pipe(monkeypatch: pytest.MonkeyPatch):
    """The display is chosen by where stdout goes."""
    from mainstem_api.cli._display import choose

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert type(choose(Progress(run_id="r"), as_json=False)) is Piped
