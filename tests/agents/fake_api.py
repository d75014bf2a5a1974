"""A model behind the APIs that Codex and Claude's agents speak: it repeats the user's last words, one by one.

fake_api.py PORT: OpenAI's responses at /v1/responses, Anthropic's messages at /v1/messages. GET /stats?open=0 says how many
answers are open, as the demo model does. Only what the two agents need is there.
"""

import http.server
import json
import sys
import threading
import time

SLOW = 0.02
OPEN, LOCK = [0], threading.Lock()


def last_text(messages):
    """The last text of the user: that of a message is a text, or blocks."""
    for message in reversed(messages):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        blocks = [content] if isinstance(content, str) else [block.get("text") for block in content or []]
        texts = [text for text in blocks if text and not text.lstrip().startswith("<")]
        if texts:
            return texts[-1]
    return "nothing"


def words(text):
    return [word + " " for word in text.split()] or [" "]


def responses(asked):
    """OpenAI's, as events."""
    text, made = "", {"id": "resp_1", "object": "response", "model": asked.get("model"), "output": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield "response.created", {"response": made | {"status": "in_progress"}}
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.content_part.added", at | {"part": {"type": "output_text", "text": "", "annotations": []}}
    for word in words(last_text(asked.get("input") if isinstance(asked.get("input"), list) else [])):
        text += word
        yield "response.output_text.delta", at | {"delta": word}
    part = {"type": "output_text", "text": text, "annotations": []}
    item = item | {"status": "completed", "content": [part]}
    yield "response.output_text.done", at | {"text": text}
    yield "response.content_part.done", at | {"part": part}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    yield "response.completed", {"response": made | {"status": "completed", "output": [item], "usage": usage}}


def message(asked, content, stop):
    usage = {"input_tokens": 7, "output_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    kind = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked.get("model")}
    return kind | {"content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage}


def messages(asked):
    """Anthropic's, as events."""
    yield "message_start", {"message": message(asked, [], None)}
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    for word in words(last_text(asked.get("messages", []))):
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 5}}
    yield "message_stop", {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, what, status=200):
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.answer({})

    def do_GET(self):
        if self.path.startswith("/stats"):
            end = time.monotonic() + 30
            while "open=0" in self.path and OPEN[0] and time.monotonic() < end:
                time.sleep(0.02)
            return self.answer({"requests": 0, "open": OPEN[0]})
        return self.answer({"object": "list", "data": [{"id": "demo", "object": "model"}], "models": []})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        path = self.path.split("?")[0]
        if path.endswith("/count_tokens"):
            return self.answer({"input_tokens": 7})
        if path.endswith("/responses"):
            return self.stream(responses(asked))
        if not path.endswith("/messages"):
            return self.answer({"error": {"type": "not_found_error", "message": path}}, 404)
        if not asked.get("stream"):
            text = last_text(asked.get("messages", []))
            return self.answer(message(asked, [{"type": "text", "text": text}], "end_turn"))
        return self.stream(messages(asked))

    def stream(self, events):
        with LOCK:
            OPEN[0] += 1
        try:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for number, (kind, event) in enumerate(events):
                data = json.dumps({"type": kind, "sequence_number": number} | event)
                self.wfile.write(f"event: {kind}\ndata: {data}\n\n".encode())
                self.wfile.flush()
                if kind.endswith("delta"):
                    time.sleep(SLOW)
        except OSError:
            pass  # Whoever asked has gone.
        finally:
            with LOCK:
                OPEN[0] -= 1


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
