"""A local server that speaks /v1/chat/completions, and lm-eval's files of made-up answers, for tests of judges."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STAMP = "2026-01-02T03-04-05.678901"


class Judge:
    """What the server does: `reply(prompt, number)` is a text, a (status, body) pair, or raises to break the line.

    Attributes:
        seen: bodies of the requests, in order; `keys` their Authorization headers; `most` how many ran at a time.
    """

    def __init__(self, reply, *, delay=0.0):
        self.reply, self.delay = reply, delay
        self.seen, self.keys, self.most, self._now = [], [], 0, 0
        self._lock = threading.Lock()

    def enter(self, body, key):
        with self._lock:
            self.seen.append(body)
            self.keys.append(key)
            self._now += 1
            self.most = max(self.most, self._now)
            return len(self.seen)

    def leave(self):
        with self._lock:
            self._now -= 1


@contextmanager
def serving(judge):
    """The address of a server of this judge, up to /v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = judge.enter(body, self.headers.get("Authorization"))
            try:
                time.sleep(judge.delay)
                made = judge.reply(body["messages"][0]["content"], number)
            finally:
                judge.leave()
            status, text = made if isinstance(made, tuple) else (200, completion(made))
            payload = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            if status == 429:
                self.send_header("Retry-After", "0.01")
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def error(message):
    return json.dumps({"error": {"message": message, "type": "test"}})


def logged(doc_id, response, target="4", *, question="What is 2 + 2?", filters=None, right=None, **more):
    """Lines of one document: the response, and each filter's pick of it, judged by exact_match if `right` is given."""
    resps = [[response]] if isinstance(response, str) else response
    lines = []
    for name, picked in (filters or {"none": response}).items():
        line = {
            "doc_id": doc_id,
            "doc": {"question": question, "answer": target},
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": f"Q: {question}\nA:", "arg_1": {}}},
            "resps": resps,
            "filtered_resps": [picked],
            "filter": name,
            "metrics": ["exact_match"],
            "doc_hash": f"h{doc_id}",
            "exact_match": float(picked == target) if right is None else right,
        }
        lines.append({**line, **more})
    return lines


def write_log(folder, lines, task="sums", content=None):
    """lm-eval's result file and samples with these lines; returns the result file."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"results_{STAMP}.json"
    results.write_text(json.dumps(content or {}))
    samples = folder / f"samples_{task}_{STAMP}.jsonl"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return results
