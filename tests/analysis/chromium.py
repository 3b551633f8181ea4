"""A headless Chromium for tests of pages: real keys, real clicks, and what the page asks for.

It is driven over two pipes (DevTools' `--remote-debugging-pipe`: JSON messages that end in a zero
byte), so no port is opened and no library is needed.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = f"there is no Chromium here (none of {', '.join(NAMES)}): install Debian's chromium"
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it does not start as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
KEYS = {" ": ("Space", 32), "Enter": ("Enter", 13), "Escape": ("Escape", 27), "Tab": ("Tab", 9)}
PATIENCE = 60.0


def chromium() -> str | None:
    """Path of a Chromium, if there is one."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Browser:
    """One browser with one tab.

    Attributes:
        asked: URLs that pages asked for since the last `open`.
        errors: what pages wrote to the console as errors, and exceptions of their scripts.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.errors: list[str] = []
        self._count, self._inbox = 0, b""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        # The browser reads from 3 and writes to 4. Both ends are moved up first, so that neither
        # is in the other's way when a small program puts them there.
        given = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write)]
        place = (
            "import os, sys; os.dup2({}, 3); os.dup2({}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", place.format(*given), chromium(), *FLAGS,
             f"--user-data-dir={self._folder.name}", "about:blank"],
            pass_fds=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (read, write, *given):
            os.close(end)
        self._session: str | None = None
        targets = self.send("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and remove what it kept."""
        try:
            self._session = None
            self.send("Browser.close")
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired, AssertionError):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._folder.cleanup()

    def send(self, method: str, **params: object) -> dict:
        """Ask the browser for something; its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._count:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told)

    def open(self, address: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page and wait until it is there; an address may end in #..."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url="about:blank")
        self.asked.clear()
        self.errors.clear()
        self.send("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def js(self, expression: str) -> object:
        """The value of an expression on the page."""
        told = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.js(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press and release keys, by their names in DOM events."""
        for key in keys:
            code, number = KEYS.get(key, (key, ord(key.upper()) if len(key) == 1 else 0))
            text = (
                {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            )
            about = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            self.send("Input.dispatchKeyEvent", type="keyDown", **about, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Put a text where the cursor is."""
        self.send("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click the middle of the first element that is found."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = self.js(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])({place}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            how = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, **how)

    def screenshot(self, path: Path | None = None) -> bytes:
        """What is seen, as PNG."""
        content = base64.b64decode(self.send("Page.captureScreenshot")["data"])
        if path is not None:
            path.write_bytes(content)
        return content

    def _next(self) -> dict:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._inbox:
            ready = select.select([self._read], [], [], max(0, end - time.monotonic()))[0]
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._inbox += part
        message, self._inbox = self._inbox.split(b"\0", 1)
        return json.loads(message)

    def _note(self, told: dict) -> None:
        method, params = told.get("method"), told.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
