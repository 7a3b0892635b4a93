"""A chat-completions server on the loopback, for the tests of what asks a judge. It answers as told and keeps what it was sent."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """drips: the body comes a byte at a time, `delay_s` before each; otherwise `delay_s` passes once."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drips: bool = False


def says(text: Any, **reply: Any) -> Reply:
    """A completion with that text (a dict: as JSON), 7 prompt and 3 completion tokens."""
    content = json.dumps(text) if isinstance(text, dict) else text
    message = {"role": "assistant", "content": content}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, "message": message}]}
    return Reply(body=json.dumps(body | {"usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}), **reply)


class JudgeServer:
    """`replies` are used up first, then `respond` is asked with each request's body."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.respond: Callable[[dict[str, Any]], Reply] = lambda body: says({"reason": "", "correct": True})
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.raw]

    def sent(self, index: int = -1) -> str:
        """The text of the last (or another) request's user message."""
        return self.bodies[index]["messages"][-1]["content"]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _reply(self, raw: bytes, headers: dict[str, str]) -> Reply:
        with self._lock:
            self.raw.append(raw)
            self.headers.append(headers)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            if self.replies:
                return self.replies.pop(0)
        return self.respond(json.loads(raw))

    def _leave(self) -> None:
        with self._lock:
            self._at_once -= 1

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                reply = server._reply(raw, {name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
                body = reply.body.encode()
                if not reply.drips:
                    time.sleep(reply.delay_s)
                server._leave()
                try:
                    self.send_response(reply.status)
                    for name, value in ({"content-type": "application/json", "content-length": str(len(body))} | reply.headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    for start in range(len(body)) if reply.drips else ():
                        time.sleep(reply.delay_s)
                        self.wfile.write(body[start : start + 1])
                        self.wfile.flush()
                    self.wfile.write(b"" if reply.drips else body)
                except OSError:
                    self.close_connection = True  # who asked has hung up

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler
