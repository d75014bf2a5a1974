"""A model behind the APIs of the agents of Codex and Claude: it repeats the user's last message, word by word.

fake_api.py PORT: serves OpenAI's POST /v1/responses and Anthropic's POST /v1/messages, both streamed; the agents ask for
nothing else of either API. As on the demo model, GET /stats?open=0 waits until no answer is being streamed, for 10 seconds
at most, and returns how many are.
"""

import http.server
import json
import sys
import threading
import time

SLOW = 0.02
OPEN, LOCK = [0], threading.Lock()


def last_text(messages):
    """The last text of the last user message, whose content is a string or a list of blocks."""
    content = [message for message in messages if message.get("role") == "user"][-1]["content"]
    return content if isinstance(content, str) else [block["text"] for block in content if "text" in block][-1]


def words(messages):
    return [word + " " for word in last_text(messages).split()]


def responses(asked):
    """OpenAI's, as events."""
    text, made = "", {"id": "resp_1", "object": "response", "model": asked.get("model"), "output": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield "response.created", {"response": made | {"status": "in_progress"}}
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.content_part.added", at | {"part": {"type": "output_text", "text": "", "annotations": []}}
    for word in words(asked["input"]):
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


def messages(asked):
    """Anthropic's, as events."""
    usage = {"input_tokens": 7, "output_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked.get("model"), "content": []}
    yield "message_start", {"message": message | {"stop_reason": None, "stop_sequence": None, "usage": usage}}
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    for word in words(asked["messages"]):
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 5}}
    yield "message_stop", {}


STREAMS = {"/v1/responses": responses, "/v1/messages": messages}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        end = time.monotonic() + 10
        while OPEN[0] and time.monotonic() < end:
            time.sleep(0.02)
        body = json.dumps({"open": OPEN[0]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = STREAMS.get(self.path.partition("?")[0])
        self.stream(answer(asked)) if answer else self.send_error(404)

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
