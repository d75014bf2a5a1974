"""Drives runs of a culm through LiteLLM's proxy to the demo model.

drive.py FOLDER CULM: the proxy was installed in FOLDER by `run`, which calls this where there is no network.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# A machine may be busy, and the proxy imports half of the registry.
PATIENCE = 300
FOLDER, CULM = sys.argv[1:]


def bring_up_loopback():
    """A new network namespace has a loopback device that is down."""
    flags = 0x8913, 0x8914
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        found = struct.unpack("16sh14x", fcntl.ioctl(control, flags[0], request))[1]
        if not found & 1:
            fcntl.ioctl(control, flags[1], struct.pack("16sh14x", b"lo", found | 1))


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def ask(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
        return json.load(answer)


class Stack:
    """A demo model, the proxy before it and a culm before that, in a folder of their own."""

    def __init__(self, place):
        self.place, self.processes, self.url = place, [], None

    def bring_up(self):
        place = self.place
        model, proxy, server = free_port(), free_port(), free_port()
        self.start([CULM, "demo-model", "--listen", f"127.0.0.1:{model}"], "model")
        config = os.path.join(place, "proxy.yaml")
        with open(config, "w") as file:
            file.write(
                "model_list:\n  - model_name: demo\n    litellm_params:\n      model: openai/demo\n"
                f"      api_base: http://127.0.0.1:{model}/v1\n      api_key: none\n"
                "litellm_settings:\n  telemetry: false\n  num_retries: 0\n"
            )
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "HOME": place}
        program = os.path.join(FOLDER, "litellm", "bin", "litellm")
        arguments = ["--config", config, "--host", "127.0.0.1", "--port", str(proxy), "--telemetry", "False"]
        self.start([program, *arguments], "proxy", offline)
        self.until(f"http://127.0.0.1:{proxy}/health/liveliness")
        settings = os.path.join(place, "culm.toml")
        with open(settings, "w") as file:
            file.write(
                f'[executors.litellm]\nkind = "openai"\nmodel = "demo"\nbase_url = "http://127.0.0.1:{proxy}/v1"\n'
                'content_timeout = "30s"\n'
            )
        database = os.path.join(place, "culm.db")
        listen = ["--listen", f"127.0.0.1:{server}", "--no-auth", "--config", settings]
        self.start([CULM, "serve", "--db", database, *listen], "culm")
        self.url = f"http://127.0.0.1:{server}"
        self.until(self.url + "/ready")

    def start(self, command, name, more=None):
        with open(os.path.join(self.place, name + ".log"), "wb") as log:
            environment = {**os.environ, **(more or {})}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.processes.append((process, name))

    def until(self, url):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for process, name in self.processes:
                if process.poll() is not None:
                    raise SystemExit(f"litellm: {name} ended with {process.returncode}: {self.tail(name)}")
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10):
                    return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"litellm: {url} did not answer: {self.tail(self.processes[-1][1])}")

    def tail(self, name):
        with open(os.path.join(self.place, name + ".log"), errors="replace") as log:
            return log.read()[-1500:]

    def close(self):
        for process, _ in reversed(self.processes):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def api(self, method, path, body=None):
        return ask(method, self.url + "/api/v1" + path, body)

    def run(self, session, body):
        """A run that has ended."""
        run = self.api("POST", f"/sessions/{session}/runs", body)["run"]
        end = time.monotonic() + PATIENCE
        while run["status"] in ("pending", "running") and time.monotonic() < end:
            if self.api("GET", f"/sessions/{session}/question")["has_pending_question"]:
                self.api("POST", f"/sessions/{session}/question/answer", {"response": "blue"})
            run = self.api("GET", f"/runs/{run['id']}?wait=1")["run"]
        return run

    def says(self, session, text):
        """How a run ended, and the session's last message."""
        try:
            self.api("POST", "/sessions", {"id": session})
        except urllib.error.HTTPError:
            pass
        run = self.run(session, {"message": text})
        return run, self.api("GET", f"/sessions/{session}/messages?limit=1000")["messages"][-1]


def steps(stack):
    run, last = stack.says("text", "/usage 10 5\nhello there")
    yield "text and a count", run["status"] == "completed" and last["content"] == "hello there", (run, last)
    yield "the count", (run.get("usage") or {}).get("total_tokens") == 15, run
    log = stack.api("GET", "/sessions/text/usage")["usage"]
    yield "the usage log", len(log) == 1 and log[0]["record"]["total_tokens"] == 15, log

    run, last = stack.says("reasoning", "/reasoning let me see\nyes")
    yield "reasoning", (last.get("reasoning"), last["content"]) == ("let me see", "yes"), (run, last)

    run, last = stack.says("call", '/sign EjQK\n/tool read {"path": "a"}\n/tool list\nall done')
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in last.get("tool_calls") or []]
    yield "calls", calls == [("read", '{"path": "a"}'), ("list", "{}")], (run, last)
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "x"} for c in last.get("tool_calls") or []]
    stack.api("POST", "/sessions/call/messages", {"messages": results})
    run = stack.run("call", {})
    last = stack.api("GET", "/sessions/call/messages?limit=1000")["messages"][-1]
    yield "their results, and what was put on them", last["content"] == "all done", (run, last)

    run, last = stack.says("question", "/ask Which? | red | blue\nwell")
    yield "a question", run["status"] == "completed" and last["content"] == "well", (run, last)

    run, last = stack.says("half", "key\n/half")
    yield "half a character", run["status"] == "completed" and "key" in last["content"], (run, last)

    run, last = stack.says("cut", '/finish length\n/tool write {"path": "x')
    run, last = stack.says("cut", "go on")
    yield "a cut call does not spoil the session", run["status"] == "completed" and last["content"] == "go on", (run, last)

    run, _ = stack.says("error", "/error 400")
    told = run.get("error") or ""
    yield "an error in words", run["status"] == "error" and "told to fail" in told and "<" not in told, run

    run, _ = stack.says("page", "/page 502")
    told = run.get("error") or ""
    yield "a gateway's page", run["status"] == "error" and "502" in told and "<html" not in told, run

    run, _ = stack.says("context", "/context")
    yield "a transcript that is too long", run["status"] == "error" and "longer than the model takes" in run["error"], run

    run, _ = stack.says("fail", "half\n/fail upstream died")
    yield "an error in the stream", run["status"] == "error", run

    run, last = stack.says("strict", "/strict\nhello")
    yield "without stream_options", run["status"] == "completed" and last["content"] == "hello", (run, last)

    started = stack.api("POST", "/sessions", {"id": "endless"})
    run = stack.api("POST", "/sessions/endless/runs", {"message": "/endless"})["run"]
    cancelled = stack.api("POST", "/sessions/endless/cancel")["cancelled_run_ids"]
    yield "a cancel", cancelled == [run["id"]], (started, cancelled)


def main():
    bring_up_loopback()
    place = tempfile.mkdtemp(prefix="culm-providers-")
    stack, failed = Stack(place), 0
    try:
        stack.bring_up()
        for name, holds, found in steps(stack):
            print(f"litellm: {name}: {'ok' if holds else f'FAILS: {json.dumps(found)[:1500]}'}", flush=True)
            failed |= not holds
        if failed:
            print(stack.tail("proxy"))
    finally:
        stack.close()
        shutil.rmtree(place, ignore_errors=True)
    sys.exit(failed)


main()
