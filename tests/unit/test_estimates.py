"""Tokens of text, estimated without a tokenizer."""

from __future__ import annotations

import pytest

from mainstem_tasks.engines.assembly import estimates

# Counted once with o200k_base, the vocabulary of today's models.
COUNTED = {
    "english": (
        60,
        (
            "The web tier enqueues a run by name and never imports the workers. A reader that comes first catches up "
            "from its cursor, then joins the live flow; replay and live are the same entries, so there is no seam. "
            "Whoever is too slow loses the queue and goes on from a snapshot."
        ),
    ),
    "german": (
        45,
        (
            "Ein Arbeitsprozess verliert niemals einen Lauf: Was der Server bestätigt hat, übersteht den Absturz. Die "
            "Geschwindigkeitsbegrenzung gilt für jede Verbindung einzeln, auch für Weiterleitungen und Zwischenspeicher."
        ),
    ),
    "russian": (
        44,
        (
            "Сервер подтвердил запись, и она переживёт падение процесса. Читатель, который пришёл первым, догоняет "
            "журнал от своего курсора и затем присоединяется к живому потоку."
        ),
    ),
    "chinese": (
        37,
        "服务器已确认的内容在进程崩溃后仍然存在。第一个到来的读者从其游标处追赶日志,然后加入实时流。",
    ),
    "korean": (
        30,
        "서버가 확인한 내용은 프로세스가 종료되어도 남아 있습니다. 먼저 온 독자는 커서에서부터 따라잡습니다.",
    ),
    "json": (
        42,
        (
            '{"city":"Paris","limit":10,"filters":[{"field":"price","op":"<=","value":250.5},'
            '{"field":"name","op":"like","value":"%hotel%"}]}'
        ),
    ),
    "numbers": (28, "3.14159 2.71828 1234567 42 2026-11-28 12:36:49"),
    "words": (501, "word " * 500),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_an_estimate_is_within_a_third_of_a_tokenizer(kind: str):
    """For prose in several scripts, for JSON and numbers."""
    counted, text = COUNTED[kind]
    assert estimates.tokens_in(text) == pytest.approx(counted, rel=1 / 3)


def test_no_text_is_no_token_and_any_text_at_least_one():
    """Also blanks alone, which a model may say."""
    assert [estimates.tokens_in(text) for text in ("", " ", "\n", "a", "…", "\ud800")] == [0, 1, 1, 1, 1, 1]


def test_a_request_is_its_texts_its_tools_and_its_pictures():
    """A picture's bytes, which stand in its address, are not read as text."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    parts = [{"type": "text", "text": "what is this"}, picture]
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    plain = estimates.tokens_of_request([{"role": "user", "content": "what is this"}])
    assert plain == estimates.MESSAGE_TOKENS + 3
    assert estimates.tokens_of_request([{"role": "user", "content": parts}]) == plain + estimates.IMAGE_TOKENS
    assert estimates.tokens_of_request([{"role": "user", "content": "what is this"}], [tool]) > plain
    assert estimates.tokens_of_request([{"role": "assistant", "content": None, "tool_calls": [tool]}]) > 8
