"""The report in a real browser: headless Chromium, spoken to over a pipe."""

import json
import os
import select
import shutil
import subprocess
from contextlib import closing

import pytest

from disdiff.report.html import write_report

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no headless browser on the PATH: {', '.join(NAMES)}"
)
TIMEOUT = 60  # seconds without a word
TROUBLE = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
FIGURES = """
Promise.all([...document.images].map((image) => image.decode())).then(() =>
  [...document.querySelectorAll("figure img, .frame, input")].map((part) => part.getBoundingClientRect())
    .map((box) => box.width > 50 && box.height > 10))
"""
SHEET = """
(async () => {
  const sheet = new Image();
  sheet.src = getComputedStyle(document.querySelector(".frame")).backgroundImage.slice(5, -2);
  await sheet.decode();
  return [sheet.naturalWidth, sheet.naturalHeight];
})()
"""
STATE = """
[...document.querySelectorAll(".unit")].map((unit) => [unit.querySelector("output").textContent,
  parseFloat(getComputedStyle(unit.querySelector(".frame")).backgroundPositionX)])
"""


class Browser:
    """One page; the messages are JSON, each ended by a zero byte (Chrome DevTools Protocol)."""

    def __init__(self, profile):
        (read, theirs_out), (theirs_in, write) = os.pipe(), os.pipe()
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ]
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", shell, CHROMIUM, *options, "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in), os.close(theirs_out)
        self.out, self.buffer, self.read = write, b"", read
        self.count, self.session, self.events = 0, None, []
        page = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def receive(self):
        while b"\0" not in self.buffer:
            assert select.select([self.read], [], [], TIMEOUT)[0], "the browser does not answer"
            data = os.read(self.read, 1 << 20)
            assert data, "the browser has gone"
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def send(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path):
        self.send("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def evaluate(self, script):
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            code = {"ArrowLeft": 37, "ArrowRight": 39}[key]
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    @property
    def trouble(self):
        return [event for event in self.events if event["method"] in TROUBLE]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.out), os.close(self.read)


@pytest.fixture
def browser(full_run_folder, tmp_path_factory):
    report = write_report(full_run_folder)
    with closing(Browser(tmp_path_factory.mktemp("profile"))) as browser:
        browser.open(report)
        yield browser


def test_every_figure_is_seen_and_the_sliders_move(browser):
    visible = browser.evaluate(FIGURES)
    assert len(visible) == 9 + 2 + 2 and all(visible)
    assert browser.evaluate(SHEET) == [2 * 3 * 16, 2 * 16]
    assert browser.evaluate(STATE) == [["mean", 50], ["mean", 50]]
    browser.evaluate("document.querySelector('.unit input').focus()")
    browser.press("ArrowRight")
    assert browser.evaluate(STATE) == [["+1.5 std", 100], ["mean", 50]]
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.evaluate(STATE) == [["-1.5 std", 0], ["mean", 50]]
    spoken = "document.querySelector('.unit input').getAttribute('aria-valuetext')"
    assert browser.evaluate(spoken) == "-1.5 std"

    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(colour)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert light == "rgb(255, 255, 255)" != browser.evaluate(colour)

    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.send("Emulation.setDeviceMetricsOverride", **phone)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert all(browser.evaluate(FIGURES))
    assert not browser.trouble
