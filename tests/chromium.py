"""Chromium without a screen, driven through a pipe by the DevTools protocol: any width, dark colours, and print."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


class Chromium:
    """One page of a browser. Use it in a `with` statement, which ends the browser."""

    def __init__(self, profile):
        # The protocol reads from the file descriptor 3 and writes to 4. Copies far from these are not overwritten.
        ends = [end for _ in range(2) for end in os.pipe()]
        theirs_in, ours_out, ours_in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends)
        for end in ends:
            os.close(end)

        def as_3_and_4():
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        options = "--headless --no-sandbox --disable-gpu --disable-background-networking --remote-debugging-pipe"
        self.process = subprocess.Popen(
            [BROWSER, *options.split(), "--allow-file-access-from-files", f"--user-data-dir={profile}"],
            preexec_fn=as_3_and_4,
            pass_fds=(3, 4),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.output, self.input = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self.count, self.session, self.pending, self.events = 0, None, b"", []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Page.enable")
        self.send("Network.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.output.close()
        self.process.terminate()
        self.process.wait(20)
        self.input.close()

    def send(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.output.write(json.dumps(message).encode() + b"\0")
        self.output.flush()
        while True:
            answer = self.read()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def read(self):
        while b"\0" not in self.pending:
            more = os.read(self.input.fileno(), 1 << 20)
            assert more, "Chromium ended"
            self.pending += more
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)

    def look(self, width=1280, scheme="light", media="screen"):
        """From now on pages have a width in CSS pixels, light or dark colours, and are seen on a screen or printed."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, url):
        """Open a page, and return when it has loaded all that it names."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def requests(self):
        """The addresses that the page has asked for until now."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]

    def run(self, script):
        """Evaluate JavaScript, which may be a promise, and return its value."""
        options = {"awaitPromise": True, "returnByValue": True}
        answer = self.send("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, seconds=60):
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"waited in vain for {condition}"
            time.sleep(0.1)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
