"""Drives one agent through the life of a session, on a server of its own, against the demo model, or against the fake
API that its agent speaks (fake_api.py).

drive.py AGENT FOLDER CULM: the agent was installed in FOLDER by `run`, which calls this where there is no network.
"""

import fcntl
import glob
import json
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

# A machine may be busy, and an agent slow to start.
PATIENCE = 300


def opencode(folder, place, model):
    config = os.path.join(place, "opencode.json")
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": model, "apiKey": "none"},
        "models": {"demo": {"name": "demo"}},
    }
    with open(config, "w") as file:
        json.dump({"model": "demo/demo", "small_model": "demo/demo", "provider": {"demo": provider}}, file)
    [binary] = glob.glob(f"{folder}/opencode/node_modules/opencode-linux-*/bin/opencode")
    return binary, {"OPENCODE_CONFIG": config, "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def opencode_acp(folder, place, model):
    binary, environment = opencode(folder, place, model)
    return "acp", [binary, "acp"], environment


def opencode_serve(folder, place, model):
    binary, environment = opencode(folder, place, model)
    return "opencode", [binary, "serve"], environment


def qwen(folder, place, model):
    modules = f"{folder}/qwen/node_modules"
    [node] = glob.glob(f"{modules}/node-linux-*/bin/node")
    # Its bundled skills put 1300 words before a session's first message, and the demo model repeats them.
    settings = os.path.join(place, "qwen.json")
    with open(settings, "w") as file:
        json.dump({"skills": {"disabledLevels": ["bundled"]}}, file)
    environment = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": model, "OPENAI_MODEL": "demo"}
    environment["QWEN_CODE_SYSTEM_SETTINGS_PATH"] = settings
    return "acp", [node, f"{modules}/@qwen-code/qwen-code/cli-entry.js", "--acp"], environment


def vibe(folder, place, model):
    home = os.path.join(place, "vibe-home")
    os.makedirs(home, exist_ok=True)
    with open(os.path.join(home, "config.toml"), "w") as file:
        file.write(
            'active_model = "demo"\nenable_telemetry = false\nenable_update_checks = false\n'
            f'[[providers]]\nname = "demo"\napi_base = "{model}"\napi_key_env_var = "DEMO_KEY"\nbackend = "generic"\n'
            '[[models]]\nname = "demo"\nprovider = "demo"\nalias = "demo"\n'
        )
    return "acp", [f"{folder}/vibe/bin/vibe-acp"], {"VIBE_HOME": home, "DEMO_KEY": "none"}


def codex(folder, place, model):
    [binary] = glob.glob(f"{folder}/codex/node_modules/@zed-industries/codex-acp-linux-*/bin/codex-acp")
    # A known model: the warning about an unknown one arrives as part of the answer.
    settings = {
        "model": "gpt-5.4",
        "model_provider": "fake",
        "model_providers.fake.name": "fake",
        "model_providers.fake.base_url": model,
        "model_providers.fake.wire_api": "responses",
    }
    return "acp", [binary, *(f"-c{name}={json.dumps(value)}" for name, value in settings.items())], {}


def claude(folder, place, model):
    modules = f"{folder}/claude/node_modules"
    [node] = glob.glob(f"{modules}/node-linux-*/bin/node")
    environment = {"ANTHROPIC_BASE_URL": model.removesuffix("/v1"), "ANTHROPIC_API_KEY": "none"}
    return "acp", [node, f"{modules}/@zed-industries/claude-agent-acp/dist/index.js"], environment


AGENTS = {
    "opencode": opencode_acp,
    "qwen": qwen,
    "vibe": vibe,
    "codex": codex,
    "claude": claude,
    "opencode-serve": opencode_serve,
}
# Those that speak an API of their own.
FAKE = ("codex", "claude")


def bring_lo_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up_and_running = struct.pack("16sh", b"lo", 0x1 | 0x40)
        fcntl.ioctl(any_socket, 0x8914, up_and_running)  # SIOCSIFFLAGS


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(what, reached, patience=PATIENCE):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = reached()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {patience} s: {what}")


class Drive:
    def __init__(self, agent, folder, culm):
        self.culm, self.place = culm, tempfile.mkdtemp(prefix="culm-agents-")
        self.db, self.homes = f"{self.place}/culm.db", f"{self.place}/culm.db.agents"
        self.log = open(f"{folder}/{agent}.drive.log", "w")
        model_port, self.port = free_port(), free_port()
        self.model_url = f"http://127.0.0.1:{model_port}"
        self.model = self.start_model(agent, model_port)
        self.kind, command, environment = AGENTS[agent](folder, self.place, f"{self.model_url}/v1")
        with open(f"{self.place}/culm.toml", "w") as file:
            file.write(f"[executors.agent]\nkind = '{self.kind}'\ncommand = {json.dumps(command)}\n")
            variables = ", ".join(f"{name} = {json.dumps(value)}" for name, value in environment.items())
            file.write(f"permissions = 'allow'\nstart_timeout = '5m'\nenv = {{ {variables} }}\n")
        self.serve()

    def start_model(self, agent, port):
        if agent not in FAKE:
            return self.start("demo-model", "--listen", f"127.0.0.1:{port}")
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake_api.py")
        return subprocess.Popen([sys.executable, program, str(port)], stdout=self.log, stderr=self.log)

    def start(self, *arguments):
        return subprocess.Popen([self.culm, *arguments], stdout=self.log, stderr=self.log, cwd=self.place)

    def serve(self):
        options = ["--db", self.db, "--config", f"{self.place}/culm.toml", "--listen", f"127.0.0.1:{self.port}", "--no-auth"]
        self.server = self.start(*options)
        until("culm is ready", self.ready)

    def ready(self):
        assert self.server.poll() is None, "culm ended"
        try:
            return self.call("GET", "/ready", api="")
        except OSError:
            return None

    def call(self, method, path, body=None, api="/api/v1"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{api}{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read() or b"{}"

    def json(self, *arguments):
        return json.loads(self.call(*arguments))

    def begin(self, message):
        return self.json("POST", f"/sessions/{self.session}/runs", {"message": message})["run"]["id"]

    def create(self, session):
        self.session = session
        self.call("POST", "/sessions", {"id": session})

    def says(self, text):
        """A run with this text comes to its end, and the demo model has repeated it."""
        run = self.begin(text)
        ended = until("the run ends", lambda: self.ended(run))
        assert ended["status"] == "completed", ended
        said = self.json("GET", f"/sessions/{self.session}/messages?order=desc&limit=20")["messages"]
        assert any(text in message["content"] for message in said if message["role"] == "assistant"), said

    def ended(self, run):
        now = self.json("GET", f"/runs/{run}?wait=10")["run"]
        return now if now["status"] not in ("pending", "running") else None

    def writes(self, words):
        """Starts a long answer and waits for the model's first words: an agent may warn of something before them, and some
        keep nothing of a turn until then.

        To opencode, what begins with a slash is a command of its own, so the demo model is given no directive.
        """
        url = f"http://127.0.0.1:{self.port}/api/v1/sessions/{self.session}/events"
        with urllib.request.urlopen(url, timeout=PATIENCE) as events:
            run, said = self.begin("on and " * (words // 2)), ""
            for line in events:
                if line.startswith(b"data:") and b'"message.delta"' in line:
                    said += json.loads(line[5:])["text"]
                    if "on and" in said:
                        return run
        raise AssertionError(f"the events ended; it said {said!r}")

    def agent_session(self):
        with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True) as database:
            query = "select id, agent_session_id from v_backends where session_id = ?"
            return database.execute(query, [self.session]).fetchone()

    def home(self):
        return f"{self.homes}/{self.agent_session()[0]}"

    def model_is_idle(self):
        with urllib.request.urlopen(f"{self.model_url}/stats?open=0", timeout=PATIENCE) as stats:
            return json.load(stats)["open"] == 0

    def processes(self):
        """All that was started for a backend: it has its home there, or inherited it."""
        found, mark = [], f"={self.homes}/".encode()
        for environment in glob.glob("/proc/[0-9]*/environ"):
            try:
                with open(environment, "rb") as file:
                    carries = mark in file.read()
                with open(environment.replace("environ", "stat")) as file:
                    zombie = file.read().rpartition(")")[2].split()[0] in "ZX"
            except OSError:
                continue
            if carries and not zombie:
                found.append(environment)
        return found

    def none_is_left(self):
        until("no process of the agent is left", lambda: not self.processes())

    def stop(self):
        self.server.send_signal(signal.SIGTERM)
        assert self.server.wait(PATIENCE) == 0, "culm did not end well"
        self.none_is_left()

    # The steps, in order. Each leaves the session as the next one wants it.

    def prompt(self):
        self.create("first")
        self.says("bamboo grows fast")
        assert self.processes()

    def cancel(self):
        run = self.writes(5000)
        assert self.json("POST", f"/runs/{run}/cancel")["run"]["status"] == "cancelled"
        # The model would write for 100 seconds.
        until("the model answers nobody any more", self.model_is_idle, 60)

    def restart(self):
        before = self.agent_session()
        self.stop()
        self.serve()
        self.says("a culm has joints")
        assert self.agent_session() == before, f"it began another session than {before}: {self.agent_session()}"

    def close(self):
        [closed] = self.json("POST", "/sessions/first/close")["results"]
        assert closed["backends_closed"] == 1, closed
        if self.kind == "acp":
            self.none_is_left()

    def kill(self):
        self.says("and opens again")
        self.closed_once = self.home()
        self.create("second")
        self.says("as grass does")
        # Nothing of it is stored: the next run asks it once more.
        self.writes(500)
        self.server.kill()
        self.server.wait()
        self.none_is_left()
        self.serve()
        self.says("none the worse for it")

    def delete(self):
        homes = [self.closed_once, self.home()]
        assert all(os.path.isdir(home) for home in homes), homes
        for session in ("first", "second"):
            self.call("DELETE", f"/sessions/{session}")
        assert not any(os.path.exists(home) for home in homes), f"one is left of {homes}"
        if self.kind == "acp":
            self.none_is_left()
        self.stop()

    def clean_up(self):
        self.server.kill()
        self.model.kill()
        self.none_is_left()
        shutil.rmtree(self.place, ignore_errors=True)


def main():
    agent, folder, culm = sys.argv[1:]
    try:
        bring_lo_up()
    except OSError:
        pass  # It is up, where no namespace was made.
    drive = Drive(agent, folder, culm)
    try:
        for step in (drive.prompt, drive.cancel, drive.restart, drive.close, drive.kill, drive.delete):
            began = time.monotonic()
            try:
                step()
            except Exception as error:
                print(f"{agent}: {step.__name__}: FAILED: {error!r}; see {drive.log.name}", flush=True)
                return 1
            print(f"{agent}: {step.__name__}: ok ({time.monotonic() - began:.1f} s)", flush=True)
        return 0
    finally:
        drive.clean_up()


sys.exit(main())
