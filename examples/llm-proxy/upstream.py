"""A language model to try the example with: ``python3 upstream.py --port 9001``. It answers every prompt with the same words.

As OpenAI's API does, it streams where the request says ``"stream": true``, and tells the usage of a stream only where it
says ``"stream_options": {"include_usage": true}``.
"""

from __future__ import annotations

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "parrot-1"
WORDS = ["It", "is", "the", "tokens", "that", "you", "pay", "for", "."]
USAGE = {"prompt_tokens": 11, "completion_tokens": len(WORDS), "total_tokens": 11 + len(WORDS)}


class Model(BaseHTTPRequestHandler):
    """``POST /v1/chat/completions``."""

    protocol_version = "HTTP/1.1"
    seconds_per_word = 0.05

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        if asked.get("stream"):
            self.stream(bool((asked.get("stream_options") or {}).get("include_usage")))
        else:
            message = {"role": "assistant", "content": " ".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.answer({"model": MODEL, "choices": [choice], "usage": USAGE})

    def do_GET(self) -> None:
        self.answer({"model": MODEL})

    def answer(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, include_usage: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in WORDS:
            self.event({"choices": [{"index": 0, "delta": {"content": f"{word} "}}]})
            time.sleep(self.seconds_per_word)
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if include_usage:
            self.event({"choices": [], "usage": USAGE})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, document: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps({"model": MODEL, **document}).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *args: Any) -> None:
        return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9001)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Model).serve_forever()
