"""The page, its limits, and the server. Needs the extra `demo`."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fergeneral.errors import DataError, MissingExtraError

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise MissingExtraError("the demo", "Gradio", "demo") from error

from fergeneral.demo import photo, similar, teach, video
from fergeneral.demo.guard import Guard
from fergeneral.demo.settings import DemoSettings

PORT = 7860
MOST_WAITING = 40  # requests; a further one is told that the demo is busy
_SESSIONS = 200  # whose examples are held in memory
_KEPT = 3600  # seconds that an upload is kept
_SWEEP = 300  # seconds between two looks for old uploads
_GRACE = 2  # seconds that open pages are waited for at the end
_LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "Consolas", "Liberation Mono", "monospace"]

_TOP = """# fergeneral
Facial expressions in photos and videos, and expressions that you teach. A label says how people who looked at photos
would name a face. It does not say what the person feels."""
_BOTTOM = f"""**Privacy.** Photos and videos are processed on the computer that runs this demo, and are sent nowhere
else. An upload is a temporary file there: it is deleted after about {_KEPT // 60} minutes, or when the demo ends. The
faces that you add in *Teach* are held in memory and are gone about an hour after you close the page. Everybody who can
open this address can use the demo; nobody sees the uploads of others.

**Use.** The packaged weights are for research, not for commercial use. Do not judge people by what you see here."""
_CSS = """
.gradio-container { max-width: 1160px !important; margin: 0 auto !important; }
.fer-code pre, .fer-code code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
.fer-crops .grid-wrap { height: auto !important; min-height: 0 !important; max-height: 26rem; }
.fer-crops .grid-container { grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)) !important; }
.fer-crops .thumbnail-item { aspect-ratio: auto !important; height: auto !important; padding-bottom: 1.5rem; }
.fer-crops .thumbnail-item img { aspect-ratio: 1; height: auto !important; }
.fer-crops .caption-label { left: 0; right: 0; bottom: 0; max-width: 100%; border-radius: 0; text-align: center;
  font-size: var(--text-sm); padding: 1px 2px; }
.fer-note { font-size: var(--text-md); line-height: 1.5; }
.fer-note .html-container { padding: 0 !important; }
.fer-note p { margin: 0 0 .4em; }
.fer-table-box { overflow: auto; max-height: 28rem; }
.fer-table { border-collapse: collapse; font-size: var(--text-md); }
.fer-table th, .fer-table td { border: 1px solid var(--border-color-primary); padding: .3em .7em; text-align: left; }
.fer-table td.number { text-align: right; font-variant-numeric: tabular-nums; }
.fer-table th { font-weight: 600; }
.fer-table td.right { background: var(--color-accent-soft); font-weight: 600; }
"""


def build_app(settings: DemoSettings) -> gr.Blocks:
    """The page of the demo, which `launch` serves.

    Parameters
    ----------
    settings : DemoSettings
        Classifier and limits.

    Returns
    -------
    gradio.Blocks
        With one queue for all that computes, and without analytics.

    Examples
    --------
    >>> from fergeneral import ExpressionClassifier
    >>> from fergeneral.demo import DemoSettings, build_app
    >>> page = build_app(DemoSettings(classifier=ExpressionClassifier.from_pretrained(device="cpu")))
    """
    with gr.Blocks(title="fergeneral", analytics_enabled=False, delete_cache=(_SWEEP, _KEPT)) as page:
        gr.Markdown(_TOP)
        with gr.Tabs():
            photo.add_tab(settings)
            teach.add_tab(settings)
            similar.add_tab(settings)
            video.add_tab(settings)
        gr.Markdown(_BOTTOM, elem_classes="fer-note")
    page.state_session_capacity = _SESSIONS
    for event in page.fns.values():
        event.concurrency_id = "one at a time"
    return page.queue(default_concurrency_limit=1, max_size=MOST_WAITING, api_open=False)


def launch(
    settings: DemoSettings,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the demo until Ctrl-C.

    Parameters
    ----------
    settings : DemoSettings
        Classifier and limits.
    host : str, default "127.0.0.1"
        Address to listen at. The default is reached from this machine alone; "0.0.0.0" from the whole network.
    port : int, default 7860
        0 takes any free port.
    announce : callable, default print
        Called with each line to be shown, such as the address.

    Raises
    ------
    DataError
        For an address that cannot be listened at, and a port that is in use.
    MissingExtraError
        Without Gradio: at the import of this function.
    KeyboardInterrupt
        At Ctrl-C, when everything has been cleared away.

    Examples
    --------
    Until Ctrl-C, at http://127.0.0.1:7860:

    >>> from fergeneral import ExpressionClassifier
    >>> from fergeneral.demo import DemoSettings, launch
    >>> settings = DemoSettings(classifier=ExpressionClassifier.from_pretrained())
    >>> launch(settings)  # doctest: +SKIP
    """
    with listen(host, port) as listening, temporary_folder() as folder:
        web = web_app(settings, folder, hosts=_LOOPBACK if _is_loopback(host) else None)
        address, number = listening.getsockname()[:2]
        announce(f"The demo is at http://{_shown(address)}:{number} (Ctrl-C ends it).")
        if _is_loopback(host):
            announce("It can be used from this machine alone. Photos stay on it, and nothing is stored.")
        else:
            announce("Everybody who can reach this machine can use it. Photos are not sent on, and nothing is stored.")
        config = uvicorn.Config(web, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE)
        uvicorn.Server(config).run(sockets=[listening])


def web_app(
    settings: DemoSettings, folder: tempfile.TemporaryDirectory[str], *, hosts: list[str] | None = None
) -> FastAPI:
    """The demo as an ASGI application.

    Its uploads go to `folder`, which `temporary_folder` has made, and which is removed when the application ends.
    `hosts`: the names by which it may be called; None for any. A page that was opened under another name, such as one
    that an attacker has pointed at 127.0.0.1, is then refused.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        folder.cleanup()  # here, too: at SIGTERM uvicorn ends the process

    web = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    web.add_middleware(Guard, uploads=folder.name)
    if hosts is not None:
        web.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    page = build_app(settings)
    gr.mount_gradio_app(
        web,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=settings.max_megabytes * 2**20,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=_FONT, font_mono=_MONO),
        css=_CSS,
    )
    page.has_launched = True  # else Gradio does not check the files that a request names
    return web


@contextmanager
def temporary_folder() -> Iterator[tempfile.TemporaryDirectory[str]]:
    """A folder for Gradio's temporary files; the environment, by which Gradio is told of it, is put back at the end."""
    names = ("GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY")  # Gradio sets the second
    before = {name: os.environ.get(name) for name in names}
    folder = tempfile.TemporaryDirectory(prefix="fergeneral-demo-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = os.path.realpath(folder.name)
    try:
        yield folder
    finally:
        folder.cleanup()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises DataError."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family)
    except OverflowError:
        raise DataError(f"the port must be from 0 to 65535, got {port}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DataError(f"port {port} is in use: name another by --port, or --port 0 for any free one") from error
        if error.errno == errno.EACCES:
            raise DataError(f"port {port} may not be used by this user: name one above 1023") from error
        raise DataError(
            f"cannot listen at {host!r}: it is no address of this machine; 127.0.0.1 is for this machine alone, "
            f"0.0.0.0 for the network"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(address: Any) -> str:
    """What a browser on this machine takes."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{local}]" if ":" in local else local
