"""Assigns the pieces of a streamed answer to its tool calls, and decides which calls are complete.

The identity of a call. Providers number calls, give them ids, name them in the first piece, or do some of
that wrongly; no single sign can be trusted. A piece *continues* a call, found in this order: the call with
its id (and its index, if several have that id), else the latest call with its index, else, if it has no
index, the latest call. It *begins* a call if there is none to continue, or if

1. it has another name than that call (unless both together are the name of a tool: a name in pieces);
2. it repeats the name, and index or id tell calls apart: it has another index; or another id, and the call so
   far has no arguments, whole arguments, or no index in common with the piece;
3. it repeats the name, and the call's arguments are whole JSON already, and arguments come with it, or follow
   it: only a second call can have them. The same arguments under the same id are the same call, said twice.

A piece without a name begins a call only under an unknown index. Whatever these rules cannot decide ends as
arguments that are no JSON, or as calls that share a place with such a call: those fail, and never run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_shared.model import jsontext
from mainstem_tasks.engines.assembly import extras
from mainstem_tasks.engines.assembly.completeness import Completeness
from mainstem_tasks.engines.assembly.pieces import CallPiece
from mainstem_tasks.engines.assembly.texts import SurrogateJoiner

CALLS_LIMIT: Final = 128
"""Calls of one answer: as many as one action may ask about."""
ARGUMENTS_LIMIT: Final = 128 * 1024
"""Bytes of JSON of all arguments of an answer: they fit one event, one action and an edit of it."""
DEPTH_LIMIT: Final = jsontext.DEPTH - 10
"""Levels of JSON: what events and actions may have, with room for themselves."""
NAME_LIMIT: Final = 128
UNNAMED: Final = "unnamed"
"""What a call is shown as that came without a name."""
_SHOWN: Final = 200


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A tool call on its way. `arguments` are known at the end, unless there is a `fault`."""

    index: int | None
    said_id: str = ""
    name: str = ""
    number: int = 0
    """Its place among the answer's calls."""
    extras: dict[str, Any] = field(default_factory=dict[str, Any])
    arguments: dict[str, Any] | None = None
    is_empty: bool = False
    """No arguments came: `{}` to a tool that needs none."""
    fault: str = ""
    """Why it must not run, in words for the model."""
    shown: bool = False
    """Whether readers were shown it, with what came so far."""
    is_emitted: bool = False
    """Whether its arguments are emitted as they come: an object's text, not one that is encoded once more."""
    is_announced: bool = False
    """Whether its name was said again after its arguments: what follows belongs to a second call."""
    _texts: list[str] = field(default_factory=list[str])
    _joiner: SurrogateJoiner = field(default_factory=SurrogateJoiner)
    _progress: Completeness = field(default_factory=Completeness)
    _blank: bool = True

    @property
    def text(self) -> str:
        """The arguments as they came."""
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]
        return self._texts[0] if self._texts else ""

    @property
    def is_blank(self) -> bool:
        """Whether no arguments have come."""
        return self._blank

    @property
    def is_whole(self) -> bool:
        """Whether the arguments could end here."""
        return not self._blank and self._progress.is_whole

    @property
    def is_placeholder(self) -> bool:
        """Whether the arguments are an empty object, which may stand before the real ones, or null."""
        return len(self._texts) < 8 and self.text.strip() in ("{}", "null")

    def grow(self, text: str) -> str:
        """Take more of the arguments; returns what is certain of them."""
        joined = self._joiner.push(text)
        self._append(joined)
        return joined

    def flush(self) -> str:
        """Take what was held back, at the answer's end."""
        rest = self._joiner.flush()
        self._append(rest)
        return rest

    def restart(self) -> None:
        """Forget an empty object that was no more than a placeholder."""
        self._texts, self._progress, self._blank = [], Completeness(), True

    def _append(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self._progress.push(text)
            self._blank = self._blank and not text.strip()

    def finish(self) -> None:
        """Parse the complete arguments, or set the fault."""
        if not self.name:
            self.fault = "The call came without a name of a tool."
        elif self.is_blank:
            self.is_empty, self.arguments = True, {}
        else:
            self._parse()
        self.name = self.name[:NAME_LIMIT] or UNNAMED

    def _parse(self) -> None:
        parsed = _parsed(self.text)
        if isinstance(parsed, str):  # some servers encode the text once more
            parsed = _parsed(parsed)
        if parsed is None and self.text.strip() == "null":
            self.is_empty, self.arguments = True, {}
        elif not isinstance(parsed, dict):
            begins = self.text[:_SHOWN]
            self.fault = f"The arguments are not a JSON object; they begin with: {begins}"
        elif jsontext.nests_deeper(self.text, parsed, than=DEPTH_LIMIT):
            self.fault = f"The arguments are nested deeper than {DEPTH_LIMIT} levels."
        elif len(self.name) > NAME_LIMIT:
            self.fault = f"The name is longer than {NAME_LIMIT} characters."
        else:
            self.arguments = jsontext.well_formed(parsed)


class Calls:
    """The calls of one answer. `names`: the tools that were offered, if that is known."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self.all: list[Call] = []
        self._names = names
        self._by_id: dict[str, Call] = {}
        self._by_index: dict[int, Call] = {}
        self._by_both: dict[tuple[str, int], Call] = {}

    def take(self, piece: CallPiece) -> tuple[Call, str]:
        """Return the call that a piece belongs to, and what it adds to its arguments."""
        call = self._continued(piece)
        if call is None or self._begins(piece, call):
            announced = call.name if call is not None and call.is_announced and not piece.name else piece.name
            call = Call(index=piece.index, name=announced, number=len(self.all))
            self.all.append(call)
        self._identify(call, piece)
        extras.add(call.extras, piece.extras)
        return call, self._grow(call, piece)

    def finish(self) -> list[Call]:
        """Return the calls at the answer's end, each with its arguments or its fault."""
        for call in self.all:
            call.finish()
        self._doubt()
        _bound(self.all)
        return self.all

    # -- the identity of a call

    def _continued(self, piece: CallPiece) -> Call | None:
        if piece.id and (same := self._by_id.get(piece.id)):
            return same if piece.index is None else self._by_both.get((piece.id, piece.index), same)
        latest = self.all[-1] if self.all else None
        if piece.index is None:
            return latest
        if not piece.name and piece.index not in self._by_index and latest and latest.index is None:
            return latest  # numbers that begin with the second piece
        return self._by_index.get(piece.index)

    def _begins(self, piece: CallPiece, call: Call) -> bool:
        if not piece.name:
            return call.is_announced and call.is_whole and bool(piece.arguments.strip())
        if not call.name:
            return False
        other_index = piece.index is not None and call.index is not None and piece.index != call.index
        if piece.name != call.name:
            return other_index or not self._is_piece_of_name(piece, call)
        return other_index or self._repeats(piece, call)

    def _is_piece_of_name(self, piece: CallPiece, call: Call) -> bool:
        whole = call.name + piece.name
        goes_on = any(name.startswith(whole) for name in self._names)
        return call.is_blank and goes_on and call.name not in self._names

    def _repeats(self, piece: CallPiece, call: Call) -> bool:
        """Decide about a piece with the call's own name."""
        other_id = bool(piece.id and call.said_id and piece.id != call.said_id)
        if call.is_blank:
            return other_id
        if not call.is_whole:
            return other_id and (piece.index is None or call.index is None)
        if other_id:
            return True
        same_id = bool(piece.id) and piece.id == call.said_id
        if not piece.arguments.strip():
            call.is_announced = not same_id
            return False
        return not (same_id and (piece.arguments == call.text or call.is_placeholder))

    def _identify(self, call: Call, piece: CallPiece) -> None:
        if not call.name or (piece.name and piece.name != call.name):
            call.name = call.name + piece.name
        call.said_id = call.said_id or piece.id
        call.index = piece.index if call.index is None else call.index
        if call.said_id:
            self._by_id[call.said_id] = call
        if call.index is not None:
            self._by_index[call.index] = call
            if call.said_id:
                self._by_both[call.said_id, call.index] = call

    def _grow(self, call: Call, piece: CallPiece) -> str:
        text = piece.arguments
        if not text:
            return ""
        if not text.isspace() and not call.is_blank and call.is_whole:
            if text == call.text:
                return ""  # said twice
            if call.is_placeholder:
                call.restart()
        return call.grow(text)

    # -- at the end

    def _doubt(self) -> None:
        """Fail the calls that share a place with one that is broken: a piece may be with the wrong one."""
        places: dict[int | None, list[Call]] = {}
        for call in self.all:
            places.setdefault(call.index, []).append(call)
        for sharing in places.values():
            if len(sharing) < 2:
                continue
            broken = any(call.fault for call in sharing)
            for call in sharing:
                twin = any(other is not call and other.name == call.name for other in sharing)
                if not call.fault and (broken or (call.is_empty and twin)):
                    call.arguments = None
                    call.fault = "The provider mixed up the pieces of this answer's calls."


def _parsed(text: str) -> Any:
    try:
        return jsontext.loads(text)
    except (ValueError, RecursionError):
        return None


def _bound(calls: list[Call]) -> None:
    """Fail the calls beyond the limits: what is left fits events, actions and checkpoints."""
    left = ARGUMENTS_LIMIT
    for call in calls:
        if call.arguments is None:
            continue
        size = len(jsontext.dumps(call.arguments))
        if call.number >= CALLS_LIMIT:
            call.arguments, call.fault = None, f"More than {CALLS_LIMIT} calls in one answer."
        elif size > left:
            call.arguments = None
            call.fault = (
                f"The arguments have {size} bytes; the calls of one answer may have {ARGUMENTS_LIMIT} "
                "together. Send less at a time."
            )
        else:
            left -= size
