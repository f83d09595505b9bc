"""Start a run in a view, follow it by server-sent events."""

import json

from django.http import JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from mainstem_api import AsyncRuns

runs = AsyncRuns()


@csrf_exempt
async def start(request, thread_id):
    started = await runs.start(thread_id, "echo", json.loads(request.body))
    return JsonResponse({"run_id": started.run_id}, status=202)


async def follow(request, run_id):
    events = runs.events(run_id, request.headers.get("Last-Event-ID"))
    lines = (f"id: {e.cursor}\nevent: {e.type}\ndata: {json.dumps(e.data)}\n\n" async for e in events)
    return StreamingHttpResponse(lines, content_type="text/event-stream")
