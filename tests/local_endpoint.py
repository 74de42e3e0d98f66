"""A real HTTP server on this machine that speaks the OpenAI protocol.

Knows nothing of who asks: it counts requests and answers each by a function.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | bytes | dict[str, Any] | tuple[int, dict[str, Any]] | tuple[int, dict[str, Any], dict[str, str]]
"""The assistant's text, an HTML page or broken JSON, a whole body, or (status, error) with or without headers."""
PATHS = ("/v1/chat/completions", "/v1/embeddings")


class Endpoint:
    """Counts requests, and answers each by a function of its JSON body."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self.base_url = ""
        self._at_once = 0
        self._lock = threading.Lock()

    def handle(self, body: dict[str, Any], key: str | None) -> tuple[int, bytes | dict[str, Any], dict[str, str]]:
        with self._lock:
            self.requests.append(body)
            self.keys.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = self.answer(body)
        finally:
            with self._lock:
                self._at_once -= 1
        if isinstance(answer, tuple):
            return answer[0], {"error": answer[1]}, answer[2] if len(answer) == 3 else {}
        if isinstance(answer, dict | bytes):
            return 200, answer, {}
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return (
            200,
            {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]},
            {},
        )


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[Endpoint]:
    """Gives a running endpoint."""
    endpoint = Endpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, value, headers = endpoint.handle(body, self.headers.get("Authorization"))
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status if self.path in PATHS else 404)
            page = data.startswith(b"<html")
            self.send_header("Content-Type", "text/html" if page else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
