"""What the Hub can do wrong, through the real client: a ModelError with the way out, and nothing is lost.

The Hub is a server on this machine that can be told to fail. The client runs in this process, with its address, cache,
waits and time limits set by the fixture.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants, file_download
from tiny import SIZE, TinyNetwork, embeds, save_tiny, use_tiny_networks

from fergeneral import ModelError
from fergeneral.encoder import Encoder, EncoderConfig
from fergeneral.heads import Head, HeadConfig
from fergeneral.hub import CONFIG_FILE, INT8_FILE, WEIGHTS_FILE, load_encoder, verified_weights

FIRST, SECOND = "a" * 40, "b" * 40  # commits
Fault = Callable[["Handler"], bool]  # answers in the handler's place and says so


class Hub(ThreadingHTTPServer):
    """Files of two commits of owner/encoder; `fault` is asked before every answer."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.commit = folder, FIRST
        self.fault: Fault = lambda handler: False
        self.asked: list[tuple[str, str]] = []  # the method and the path of each request
        self.tokens: list[str | None] = []
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """What huggingface.co answers to HEAD and GET of owner/encoder/resolve/REVISION/FILE."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def answer(self) -> None:
        self.server.asked.append((self.command, self.path))
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.server.fault(self):
            return
        parts = self.path.split("/")
        if parts[:3] != ["", "owner", "encoder"] or len(parts) != 6:
            self.refuse(404, "RepoNotFound")
        elif parts[4] not in ("main", "refs%2Fpr%2F1", FIRST, SECOND):
            self.refuse(404, "RevisionNotFound")
        elif not self.file().is_file():
            self.refuse(404, "EntryNotFound")
        else:
            self.give(self.file().read_bytes())

    def file(self) -> Path:
        revision, name = self.path.split("/")[4:]
        return self.server.folder / (revision if revision in (FIRST, SECOND) else self.server.commit) / name

    def headers_of(self, data: bytes) -> dict[str, str]:
        commit = self.file().parent.name
        return {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}

    def give(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        """As the Hub does; a download that goes on where it was cut asks for a range."""
        start = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for name, value in {**self.headers_of(data), **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start:])

    def refuse(self, status: int, code: str = "", text: bytes = b"") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if code == "EntryNotFound":
            self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    do_HEAD = do_GET = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


def is_get(handler: Handler, name: str = WEIGHTS_FILE) -> bool:
    return handler.command == "GET" and handler.path.endswith(name)


def status(code: int, error: str = "") -> Fault:
    return lambda handler: handler.refuse(code, error) is None


def hang_up(handler: Handler) -> bool:
    handler.close_connection = True
    return True


def silent(handler: Handler) -> bool:
    handler.server.closing.wait()
    return hang_up(handler)


def captive(handler: Handler) -> bool:
    """The log-in page of a hotel's network, in place of everything."""
    handler.refuse(200, text=b"<html>please log in</html>")
    return True


def of_get(fault: Fault, name: str = WEIGHTS_FILE) -> Fault:
    return lambda handler: is_get(handler, name) and fault(handler)


def times(count: int, fault: Fault) -> Fault:
    left = [count]

    def first_times(handler: Handler) -> bool:
        left[0] -= 1
        return left[0] >= 0 and fault(handler)

    return first_times


def cut(handler: Handler) -> bool:
    """Half of the file, then the line is dead."""
    data = handler.file().read_bytes()
    handler.send_response(200)
    for name, value in handler.headers_of(data).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    return hang_up(handler)


def page_of_same_length(handler: Handler) -> bool:
    data = handler.file().read_bytes()
    handler.give(b"<html>".ljust(len(data)), handler.headers_of(data))
    return True


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    use_tiny_networks(monkeypatch)
    for seed, commit in enumerate((FIRST, SECOND)):
        save_tiny(tmp_path / "hub" / commit, seed)
    server = Hub(tmp_path / "hub")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    point_client_at(server.address, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its tries
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def point_client_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # the latter in clients before huggingface_hub 1.0
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits of a moment in place of the client's 10 and 60 seconds."""
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.15)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.15, raising=False)


def load(revision: str | None = None, *, local_files_only: bool = False) -> str:
    """The SHA-256 of the weights that were loaded, which work."""
    encoder = load_encoder("owner/encoder", revision, "cpu", local_files_only)
    assert embeds(encoder)
    return encoder.config.weights_sha256


def sha256_of(hub: Hub, commit: str) -> str:
    return hashlib.sha256((hub.folder / commit / WEIGHTS_FILE).read_bytes()).hexdigest()


def refusal(revision: str | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        load(revision)
    return str(caught.value)


def snapshots(tmp_path: Path) -> list[str]:
    """The files that the cache offers for use."""
    return sorted(path.name for path in (tmp_path / "cache").glob("*/snapshots/*/*"))


FAULTS: dict[str, tuple[Fault, str]] = {
    "no such repository": (status(404, "RepoNotFound"), "not on the Hub"),
    "a private one": (status(401), "hf auth login"),
    "a gated one": (status(403, "GatedRepo"), "asks for its terms to be accepted"),
    "forbidden": (status(403), "hf auth login"),
    "too many requests": (status(429), "HTTP 429: try again later"),
    "an error": (status(500), "HTTP 500: try again later"),
    "an overload": (status(503), "HTTP 503: try again later"),
    "a line that breaks": (hang_up, "check the network|try again later"),
    "a log-in page": (captive, "not in the local cache"),
    "a server that never answers": (silent, "check the network"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_way_out_and_does_not_stick(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.fault, message = FAULTS[name]
    with monkeypatch.context() as patch:
        if name == "a server that never answers":
            impatient(patch)
        found = refusal()
    assert re.search(message, found), found
    assert "owner/encoder" in found
    assert snapshots(tmp_path) == []
    hub.fault = lambda handler: False
    assert load() == sha256_of(hub, FIRST)


@pytest.mark.parametrize("name", FAULTS)
def test_a_good_copy_in_the_cache_works_all_the_same(hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load() == sha256_of(hub, FIRST)
    hub.fault = FAULTS[name][0]
    if name == "a server that never answers":
        impatient(monkeypatch)
    assert load() == sha256_of(hub, FIRST)


@pytest.mark.parametrize("how", ["local_files_only", "refused"])  # HF_HUB_OFFLINE: in test_hub.py
def test_offline(hub: Hub, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_offline() -> str:
        with monkeypatch.context() as patch:
            if how == "refused":
                point_client_at("http://127.0.0.1:1", patch)  # where nothing listens
            return load(local_files_only=how == "local_files_only")

    with pytest.raises(ModelError, match=r"unset HF_HUB_OFFLINE and local_files_only, or pass a path"):
        load_offline()
    load()
    hub.asked.clear()
    assert load_offline() == sha256_of(hub, FIRST)
    assert hub.asked == []


DOWNLOADS: dict[str, Fault] = {
    "an error": status(500),
    "forbidden": status(403),
    "gone between two requests": status(404, "EntryNotFound"),
    "a line that breaks": hang_up,
    "cut at every try": cut,
    "a log-in page": captive,
}


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("name", DOWNLOADS)
def test_what_was_not_downloaded_whole_is_not_used(hub: Hub, name: str, file: str, tmp_path: Path) -> None:
    """The Hub has said what there is, and then does not give it."""
    tries = [3]  # a client that finds half of a file asks for the rest: the third time it gets nothing new

    def fault(handler: Handler) -> bool:
        if name == "cut at every try":
            tries[0] -= 1
            return cut(handler) if tries[0] > 0 else hang_up(handler)
        return DOWNLOADS[name](handler)

    hub.fault = of_get(fault, file)
    refusal()
    assert snapshots(tmp_path) == ([] if file == CONFIG_FILE else [CONFIG_FILE])
    assert "not in the local cache" in refusal_offline()
    hub.fault = lambda handler: False
    assert load() == sha256_of(hub, FIRST)


def refusal_offline() -> str:
    with pytest.raises(ModelError) as caught:
        load(local_files_only=True)
    return str(caught.value)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_download_that_was_cut_once_goes_on(hub: Hub, file: str) -> None:
    hub.fault = of_get(times(1, cut), file)
    try:
        found = load()
    except ModelError:  # clients before huggingface_hub 1.0 leave it to the next call
        found = load()
    assert found == sha256_of(hub, FIRST)


def test_errors_that_pass(hub: Hub) -> None:
    """Newer clients try again by themselves; with older ones the next call works."""
    hub.fault = times(1, status(500))
    with contextlib.suppress(ModelError):
        load()
    assert load() == sha256_of(hub, FIRST)


def test_a_slow_hub_is_waited_for(hub: Hub) -> None:
    hub.fault = lambda handler: hub.closing.wait(0.3)
    assert load() == sha256_of(hub, FIRST)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_another_file_of_the_right_length_is_found_out_and_asked_for_again(hub: Hub, file: str) -> None:
    hub.fault = of_get(times(2, page_of_same_length), file)
    assert re.search("SHA-256|not valid JSON", refusal())
    assert load() == sha256_of(hub, FIRST)
    hub.commit, hub.fault = SECOND, of_get(times(1, page_of_same_length), file)
    assert load() == sha256_of(hub, SECOND)


def test_files_that_do_not_belong_together_are_refused(hub: Hub) -> None:
    shutil.copy(hub.folder / SECOND / WEIGHTS_FILE, hub.folder / FIRST / WEIGHTS_FILE)
    assert "SHA-256" in refusal()
    assert load(SECOND) == sha256_of(hub, SECOND)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_copy_damaged_in_the_cache_is_downloaded_again(hub: Hub, file: str, tmp_path: Path) -> None:
    load()
    (copy,) = (tmp_path / "cache").glob(f"*/snapshots/*/{file}")
    copy.write_bytes(copy.read_bytes()[:-100])
    assert re.search("SHA-256|not valid JSON", refusal_offline())
    hub.fault = status(500)
    assert "is corrupt, and no other could be had" in refusal()
    hub.fault = lambda handler: False
    assert load() == sha256_of(hub, FIRST)
    assert load(local_files_only=True) == sha256_of(hub, FIRST)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_newer_commit_that_cannot_be_had_leaves_the_older_one_to_use(hub: Hub, file: str) -> None:
    load()
    hub.commit, hub.fault = SECOND, of_get(hang_up, file)
    assert f"revision='{FIRST}'" in refusal()
    assert f"revision='{FIRST}'" in refusal_offline()
    assert load(FIRST, local_files_only=True) == sha256_of(hub, FIRST)
    hub.fault = lambda handler: False
    assert load() == sha256_of(hub, SECOND)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_repository_that_is_no_encoder_is_named(hub: Hub, file: str) -> None:
    (hub.folder / FIRST / file).unlink()
    assert "owner/encoder is not an encoder of this package" in refusal()


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_file_denied_once_is_found_the_next_time(hub: Hub, file: str) -> None:
    hub.fault = lambda handler: handler.path.endswith(file) and status(404, "EntryNotFound")(handler)
    assert "not an encoder of this package" in refusal()
    hub.fault = lambda handler: False
    assert load() == sha256_of(hub, FIRST)


def test_what_the_hub_does_not_have_is_named(hub: Hub) -> None:
    assert "no such revision" in refusal("v9")
    with pytest.raises(ModelError, match="owner/other is not on the Hub"):
        load_encoder("owner/other", device="cpu")


def test_both_files_are_of_one_commit(hub: Hub) -> None:
    def move_on(handler: Handler) -> bool:
        if is_get(handler, CONFIG_FILE):
            hub.commit = SECOND
        return False

    hub.fault = move_on
    assert load() == sha256_of(hub, FIRST)


def test_a_revision_with_slashes(hub: Hub) -> None:
    assert load("refs/pr/1") == sha256_of(hub, FIRST)
    assert load("refs/pr/1", local_files_only=True) == sha256_of(hub, FIRST)


def test_another_host_that_the_hub_sends_to_gets_no_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's large files lie with another host. What comes from there is looked at by its SHA-256 all the same."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    other = Hub(tmp_path / "hub")
    threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def send_away(handler: Handler) -> bool:
        if not handler.path.endswith(WEIGHTS_FILE):
            return False
        data = handler.file().read_bytes()
        handler.send_response(302)
        for name, value in handler.headers_of(data).items():
            handler.send_header("X-Linked-ETag" if name == "ETag" else name, value)
        handler.send_header("X-Linked-Size", str(len(data)))
        handler.send_header("Location", f"http://localhost:{other.server_address[1]}{handler.path}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    hub.fault, other.fault = send_away, page_of_same_length
    try:
        assert "SHA-256" in refusal()
        other.fault = lambda handler: False
        assert load() == sha256_of(hub, FIRST)
    finally:
        other.closing.set()
        other.shutdown()
        other.server_close()
    assert {"Bearer hf_secret"} == set(hub.tokens)
    assert other.tokens
    assert set(other.tokens) == {None}


def test_a_commit_that_is_a_path_leads_nowhere(hub: Hub, tmp_path: Path) -> None:
    """The cache has a folder for each commit, whose name comes from the Hub."""

    def lead_out(handler: Handler) -> bool:
        handler.give(handler.file().read_bytes(), {"X-Repo-Commit": "../../../outside"})
        return True

    hub.fault = lead_out
    assert "owner/encoder" in refusal()
    assert {path.name for path in tmp_path.iterdir()} <= {"hub", "cache"}


# int8-quantized weights: model.onnx, where a repository has no model.safetensors


@pytest.fixture
def int8(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub with model.onnx in place of model.safetensors; what it holds is not looked into here."""
    for commit in (FIRST, SECOND):
        (hub.folder / commit / WEIGHTS_FILE).rename(hub.folder / commit / INT8_FILE)

    def load_int8(folder: Path, config: EncoderConfig, device: str | None) -> Encoder:
        verified_weights(folder / INT8_FILE, config)
        return Encoder(TinyNetwork(), config, device)

    monkeypatch.setattr("fergeneral.int8.load_int8", load_int8)
    return hub


def test_int8_weights_have_the_same_promises(int8: Hub, tmp_path: Path) -> None:
    right = hashlib.sha256((int8.folder / FIRST / INT8_FILE).read_bytes()).hexdigest()
    for fault in (status(500), of_get(hang_up, INT8_FILE), of_get(status(500), INT8_FILE)):
        int8.fault = fault
        refusal()
        assert INT8_FILE not in snapshots(tmp_path)
    int8.fault = of_get(times(1, page_of_same_length), INT8_FILE)
    assert load() == right
    int8.asked.clear()
    for fault in (status(500), hang_up, status(401)):
        int8.fault = fault
        assert load() == right
    assert not any(WEIGHTS_FILE in path for _, path in int8.asked)  # known not to be there
    assert load(local_files_only=True) == right
    int8.commit, int8.fault = SECOND, of_get(hang_up, INT8_FILE)
    assert f"revision='{FIRST}'" in refusal()


@pytest.fixture
def head(hub: Hub) -> Head:
    """A head in both commits, beside the encoder that it belongs to."""
    digest = sha256_of(hub, FIRST)
    zeros = np.zeros(SIZE)
    made = Head(HeadConfig("mine", ("a", "b"), "tiny", digest, SIZE), zeros, zeros + 1, np.eye(2, SIZE), [0, 1])
    for commit in (FIRST, SECOND):
        made.save_pretrained(hub.folder / commit)
    return made


def test_a_head_comes_from_the_hub_and_then_from_the_cache(hub: Hub, head: Head) -> None:
    assert Head.from_pretrained("owner/encoder").sha256 == head.sha256
    hub.fault = status(503)
    assert Head.from_pretrained("owner/encoder").sha256 == head.sha256
    asked = len(hub.asked)
    assert Head.from_pretrained("owner/encoder", local_files_only=True).sha256 == head.sha256
    assert len(hub.asked) == asked


@pytest.mark.parametrize("file", ["head.json", "head.safetensors"])
def test_a_head_damaged_in_the_cache_is_downloaded_again(hub: Hub, head: Head, file: str, tmp_path: Path) -> None:
    Head.from_pretrained("owner/encoder")
    (copy,) = (tmp_path / "cache").glob(f"**/snapshots/*/{file}")
    copy.resolve().write_bytes(b"corrupt")
    with pytest.raises(ModelError):
        Head.from_pretrained("owner/encoder", local_files_only=True)
    assert Head.from_pretrained("owner/encoder").sha256 == head.sha256


@pytest.mark.parametrize("file", ["head.json", "head.safetensors"])
def test_a_repository_that_is_no_head_is_named(hub: Hub, head: Head, file: str) -> None:
    (hub.folder / FIRST / file).unlink()
    with pytest.raises(ModelError, match=r"owner/encoder is not a head of this package: it lacks head\.json or"):
        Head.from_pretrained("owner/encoder")
