"""What the demo's server answers at all: less than Gradio would."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

# All that the page asks for. Gradio has more: it would fetch addresses for a visitor, for instance.
_PATHS = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static)/.*"
    r"|/gradio_api/(app_id|cancel|heartbeat/\w+|info|queue/join|queue/data|reset|run/predict|startup-events|theme\.css|upload"
    r"|upload_progress)/?|/gradio_api/file=(?!\w+:/).*|/gradio_api/stream/\w+(/close)?"
)
_WITH_DATA = re.compile(r"/gradio_api/(queue/join|run/predict|stream/\w+)/?")
_MOST_DATA = 2**24  # bytes of what is no upload: a picture of a webcam, at most

_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware: only the paths of the page are answered, and no request names a file but those in `uploads`.

    Gradio checks files, too, but not in an application that is mounted in another, as here; and it would fetch one that
    is named by an address such as http://...
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, uploads: str) -> None:
        self.app = app
        self.uploads = os.path.realpath(uploads)

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            if not _PATHS.fullmatch(scope["path"]):
                await _refuse(send, 404, "The demo has no such page.")
                return
            if scope["method"] == "POST" and _WITH_DATA.fullmatch(scope["path"]):
                body = await _body(receive)
                if body is None:
                    await _refuse(send, 413, "The request is too large.")
                    return
                if not self._names_uploads_alone(body):
                    await _refuse(send, 400, "The demo reads uploaded files alone.")
                    return
                receive = _again(body, receive)
        await self.app(scope, receive, send)

    def _names_uploads_alone(self, body: bytes) -> bool:
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return all(not path or self._is_upload(path) for path in _file_paths(values))

    def _is_upload(self, path: Any) -> bool:
        try:
            return os.path.commonpath([self.uploads, os.path.realpath(path)]) == self.uploads
        except (OSError, TypeError, ValueError):  # no path
            return False


async def _body(receive: _Receive) -> bytes | None:
    """All of it; None where it is too long."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MOST_DATA:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: _Receive) -> _Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def first_the_body() -> dict[str, Any]:
        return messages.pop() if messages else await receive()

    return first_the_body


def _file_paths(values: Any) -> Iterator[Any]:
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value.get("path")
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


async def _refuse(send: _Send, status: int, text: str) -> None:
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
