"""Lists dialects of failures: where providers report them, and how often a retry helps.

`requests` of these rows is the count of completions that a failure costs: one for what would fail again, four
for what may pass.
"""

from __future__ import annotations

from typing import Any, Final

from mainstem_tasks.testing.dialects.table import HEAD, STOP, Dialect, chunk, event, plain, stream
from mainstem_tasks.testing.provider_server import RESET

_ALWAYS: Final = 4
_NOW: Final = "retry-after: 0\r\n"


def _failure(
    name: str, family: str, quirk: str, reply: Any, words: str, *, requests: int = 1, text: str = ""
) -> Dialect:
    return Dialect(name=name, family=family, kind="failures", quirk=quirk, replies=(reply,), failure=words,
                   requests=requests, text=text)  # fmt: skip


def _error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


_BODIES: Final = (
    _failure("error-200", "gateways", "200 with an error as JSON: a quota that stays",
             plain(_error("quota exceeded", code="insufficient_quota")), "quota exceeded (insufficient_quota)"),
    _failure("error-200-transient", "gateways", "200 with an error as JSON that may pass",
             plain(_error("overloaded", type="server_error")), "overloaded", requests=_ALWAYS),
    _failure("error-200-text", "Ollama", "200 with an error as text", plain({"error": "model 'm' not found", "code": 404}), "model 'm' not found"),
    _failure("error-200-list", "Gemini", "An error within a list, over several lines",
             plain('[{\n  "error": {\n    "code": 400,\n    "message": "bad schema",\n    "status": "INVALID_ARGUMENT"\n  }\n}\n]'), "bad schema"),
    _failure("error-200-vllm", "vLLM, older", "object is error", plain({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}), "too long"),
    _failure("error-200-detail", "FastAPI servers", "detail says what is wrong", plain({"detail": [{"loc": ["body"], "msg": "no tools here"}]}), "no tools here",
             requests=_ALWAYS),
    _failure("error-200-base-resp", "MiniMax", "base_resp has a code", plain({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
             "insufficient balance", requests=_ALWAYS),
    _failure("page-200", "login pages, proxies", "200 with a page", plain("<html><b>Sign in</b></html>", kind="text/html"), "<b>Sign in</b>"),
    _failure("words-200", "proxies", "200 with words", plain("upstream timeout", kind="text/plain"), "upstream timeout", requests=_ALWAYS),
    _failure("nothing-200", "proxies", "200 with nothing", plain("", kind="text/plain"), "broke off", requests=_ALWAYS),
)  # fmt: skip

_STREAMS: Final = (
    _failure("error-event", "OpenAI, vLLM", "An error in the stream that may pass", stream(_error("overloaded", type="server_error")), "overloaded", requests=_ALWAYS),
    _failure("error-event-lasting", "vLLM", "An error in the stream that stays",
             stream(_error("context too long", type="invalid_request_error", code="context_length_exceeded")), "context too long"),
    _failure("error-event-named", "proxies", "event: error, with plain members", (HEAD + b'event: error\ndata: {"code": 403, "message": "not allowed"}\n\n',), "not allowed"),
    _failure("error-event-code", "OpenRouter", "A numeric code that stays", stream(_error("no credits", code=402)), "no credits"),
    _failure("error-event-busy", "OpenRouter", "A numeric code that may pass", stream(_error("busy", code=429)), "busy", requests=_ALWAYS),
    _failure("error-in-choice", "OpenRouter", "The choice has an error, and error as its reason to stop",
             stream({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "upstream died"}}]}), "upstream died",
             requests=_ALWAYS),
    _failure("error-beside-choice", "OpenRouter", "A choice with error as its reason to stop, and the words beside it",
             stream({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}], "error": {"code": "server_error", "message": "provider disconnected"}}),
             "provider disconnected", requests=_ALWAYS),
    _failure("error-after-reason", "proxies", "error is the reason to stop, the words follow",
             stream(chunk(finish="error"), _error("worker limit reached", code=400)), "worker limit reached"),
    _failure("error-beside-empty-choices", "OpenRouter", "Empty choices, and an error with what the provider behind it said",
             stream({"choices": [], "error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "limit reached (33/32)"}}}), "limit reached (33/32)",
             requests=_ALWAYS),
    _failure("error-after-text", "any", "An error after the first words: asked once", stream(chunk({"content": "par"}), _error("overloaded")), "overloaded", text="par"),
    _failure("reason-error", "routers", "error is the reason to stop", stream(chunk(finish="error")), "finish reason 'error'", requests=_ALWAYS),
    _failure("reason-abort", "vLLM, SGLang", "abort is the reason to stop, after words", stream(chunk({"content": "par"}), chunk(finish="abort")), "finish reason 'abort'", text="par"),
    _failure("reason-resource", "DeepSeek", "insufficient_system_resource", stream(chunk(finish="insufficient_system_resource")), "insufficient_system_resource", requests=_ALWAYS),
    _failure("empty", "any", "An ordinary end, and nothing said", stream(chunk({"role": "assistant", "content": ""}), STOP), "empty", requests=_ALWAYS),
    _failure("empty-done", "any", "[DONE] alone", stream(), "empty", requests=_ALWAYS),
    _failure("blank", "Gemini", "White space alone", stream(chunk({"content": "\n "}), STOP), "empty", requests=_ALWAYS),
    _failure("no-json", "proxies", "A chunk that is no JSON", (HEAD + b"data: {not json\n\n" + event(STOP),), "no chat completion", requests=_ALWAYS),
    _failure("no-shape", "any", "A text that is true: a shape without a meaning", stream(chunk({"content": True}), STOP), "choices.0.delta.content"),
    _failure("reset-at-once", "any", "A reset before the first word", (HEAD, 0.02, RESET), "connection to the provider failed", requests=_ALWAYS),
)  # fmt: skip

_STATUSES: Final = (
    *(
        _failure(f"status-{code}", "any", f"Status {code}: refused", plain(_error("no"), status=f"{code} No"), f"answered {code}: no")
        for code in (400, 401, 403, 404, 413, 422)
    ),
    *(
        _failure(f"status-{code}", "any", f"Status {code}: may pass", plain(_error("later"), status=f"{code} Later", headers=_NOW),
                 f"answered {code}: later", requests=_ALWAYS)
        for code in (408, 409, 429, 500, 502, 503, 529)
    ),
    _failure("status-429-quota", "OpenAI", "429 with a quota that stays", plain(_error("pay", code="insufficient_quota"), status="429 No", headers=_NOW), "answered 429: pay"),
    _failure("status-429-hour", "any", "429 that wants an hour", plain(_error("later"), status="429 No", headers="retry-after: 3600\r\n"), "answered 429: later"),
    _failure("status-503-date", "any", "503 with a date in Retry-After", plain(_error("later"), status="503 No", headers="retry-after: Thu, 01 Jan 2026 00:00:00 GMT\r\n"),
             "answered 503: later", requests=_ALWAYS),
    _failure("status-500-forbidden", "any", "500 that forbids to ask again", plain(_error("never"), status="500 No", headers="x-should-retry: false\r\n"), "answered 500: never"),
)  # fmt: skip

DIALECTS: Final = (*_BODIES, *_STREAMS, *_STATUSES)
