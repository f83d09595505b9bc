"""`mainstem resume` decides what a paused run waits for; `mainstem input` sends text to a run at work."""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any, Final, Literal, NoReturn

import typer

from mainstem_api.cli import _deciding
from mainstem_api.cli._deciding import Given
from mainstem_api.cli._gateway import Gateway, GatewayError, UnreachableError
from mainstem_api.cli._options import Exit, Json, Url, gateway_url, reported
from mainstem_api.cli.watch import follow

_TRIES: Final = 4
_DELAY_S: Final = 0.5

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run, as `mainstem runs` lists it.")]


def resume(
    *,
    run_id: RunId,
    approve: Annotated[list[str] | None, typer.Option(metavar="CALL", help="Approve this tool call.")] = None,
    reject: Annotated[list[str] | None, typer.Option(metavar="CALL", help="Reject this tool call.")] = None,
    edit: Annotated[
        list[str] | None, typer.Option(metavar="CALL=JSON", help="Call it with these arguments instead.")
    ] = None,
    respond: Annotated[
        list[str] | None, typer.Option(metavar="CALL=TEXT", help="Give this as the call's result instead.")
    ] = None,
    rest: Annotated[
        Literal["approve", "reject"] | None, typer.Option("--all", help="All calls that are not named.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why calls are rejected; the model reads it.")] = None,
    answer: Annotated[
        list[str] | None, typer.Option(metavar="QUESTION=TEXT", help="Answer this question.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Decide this action only, by its `action_id`.")
    ] = None,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Show the run as it goes on.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Decide what a paused run waits for: asks you, call by call, unless options decide.

    Deciding the same again is harmless; the first decision stands. With --follow it exits as `mainstem watch`
    does, else with 0 once the decision is accepted.
    """
    given = Given(
        approve=approve or (),
        reject=reject or (),
        edit=edit or (),
        respond=respond or (),
        answer=answer or (),
        rest=rest,
        reason=reason,
    )
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        run = gateway.run(run_id)
        resumed = _patiently(gateway, run_id, _body(run, given, action))
        if follow_it:
            raise typer.Exit(follow(gateway, run_id, after=run["cursor"], as_json=as_json, url_option=url))
    words = f"Accepted. The run is {resumed['status']}."
    print(json.dumps(resumed, separators=(",", ":")) if as_json else words)


def _body(run: dict[str, Any], given: Given, action_id: str | None) -> dict[str, Any]:
    """Return what to send: what the options decide, else what the person at the terminal does."""
    action = run["action"]
    waits_for_it = action is not None and action_id in (None, action["action_id"])
    if given.says_anything and action_id is not None and not waits_for_it:
        return given.body(None, action_id)  # decided before, it may be: the gateway knows
    if action is None:
        _refuse(f"The run is {run['status']}; it waits for no decision.")
    if not waits_for_it:
        _refuse(f"The run waits for action {action['action_id']} by now.")
    if given.says_anything:
        return given.body(action, action["action_id"])
    if not sys.stdin.isatty():
        asked = [call["call_id"] for call in action.get("calls") or []]
        asked += [question["question_id"] for question in action.get("questions") or []]
        _refuse(
            f"Nobody is there to ask about {', '.join(asked)}: decide with --approve, --reject, --edit, "
            "--respond, --all or --answer."
        )
    return _deciding.at_terminal().body(action)


def _refuse(words: str) -> NoReturn:
    typer.secho(words, fg=typer.colors.RED, err=True)
    raise typer.Exit(Exit.REFUSED)


def _patiently(gateway: Gateway, run_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Resume, again after a lost reply: the same decision is answered the same."""
    for attempt in range(_TRIES):
        try:
            return gateway.resume(run_id, body)
        except GatewayError as error:
            if not error.is_temporary or error.code == "too_many_runs" or attempt == _TRIES - 1:
                raise
        except UnreachableError:
            if attempt == _TRIES - 1:
                raise
        time.sleep(_DELAY_S * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def input(  # noqa: A001 - the command's name
    *,
    run_id: RunId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; - reads stdin.")],
    input_id: Annotated[
        str | None, typer.Option("--id", help="Names it: said again under the same id, it is said once.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Say something to a run while it is at work; what its engine does not read comes back with its end."""
    address = gateway_url(url)
    said = sys.stdin.read() if text == "-" else text
    with reported(address), Gateway(address) as gateway:
        receipt = gateway.send_input(run_id, said, input_id=input_id)
    words = f"Accepted as {receipt['input_id']}, number {receipt['number']} of this run."
    print(json.dumps(receipt, separators=(",", ":")) if as_json else words)
