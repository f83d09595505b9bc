"""Start a run in a view, follow it by server-sent events."""

import json

from django.http import JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from mainstem_api import AsyncRuns, sse

runs = AsyncRuns()


def user_of(request):
    return request.headers.get("X-User", "local")  # yours: request.user


@csrf_exempt
async def start(request, thread_id):
    words, told = json.loads(request.body), {"task": "chat.store"}
    started = await runs.start(thread_id, "echo", words, user_id=user_of(request), callback=told)
    return JsonResponse({"run_id": started.run_id}, status=202)


async def follow(request, run_id):
    after = request.headers.get("Last-Event-ID")
    status, lines = await sse.astream(runs, run_id, after, user_id=user_of(request))
    return StreamingHttpResponse(lines, status=status, content_type="text/event-stream")
