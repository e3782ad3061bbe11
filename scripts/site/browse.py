"""Open every page of the built site in a headless Chromium, and look at it.

    scripts/docs && python scripts/site/browse.py          # needs chromium (apt-get)
    python scripts/site/browse.py --pictures DIR [PAGE ..] # screenshots, two widths

A page fails where its console has an error, where it asks for anything that is not a
file of the site, where mathematics has no size or could not be drawn, or where it is
wider than a phone. The search must find "Winograd".
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WIDTHS = (390, 1280)
#: Names under which distributions install it.
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: What is wrong with a page, as JavaScript sees it.
FAULTS = """(() => {
  const faults = [];
  for (const math of document.querySelectorAll("math")) {
    const box = math.getBoundingClientRect();
    if (math.checkVisibility() && !(box.width > 1 && box.height > 1))
      faults.push("mathematics without a size: " + math.textContent.slice(0, 60));
    if (math.querySelector("merror")) faults.push("mathematics with an error");
  }
  if (document.querySelector(".arithmatex")) faults.push("mathematics not drawn");
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) faults.push("no image " + image.src);
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth + 1) faults.push(`${width} wide in ${innerWidth}`);
  return faults;
})()"""

#: The titles that the search shows. It runs in a frame, so that it takes a while.
FOUND = """[...document.querySelectorAll(".md-search-result__item a")]
  .map(a => a.textContent)"""


class Browser:
    """A Chromium that is told what to do through a pipe of the DevTools protocol."""

    def __init__(self, program: str, folder: str) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()

        def as_3_and_4() -> None:  # where Chromium looks for the pipe
            source, sink = os.dup(to_browser), os.dup(from_browser)
            os.dup2(source, 3)
            os.dup2(sink, 4)

        options = "--headless=new --no-sandbox --disable-gpu --hide-scrollbars "
        options += "--remote-debugging-pipe --no-first-run --disable-dev-shm-usage "
        options += f"--allow-file-access-from-files=false --user-data-dir={folder}"
        self._process = subprocess.Popen(
            [program, *options.split()],
            preexec_fn=as_3_and_4,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self.events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise RuntimeError("Chromium has ended")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True
        )
        return result["result"].get("value")

    def open(self, address: str, width: int) -> None:
        """Open a page at a width, and wait until it has loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False},
        )
        self.events = []
        self.call("Page.navigate", url=address)
        for _ in range(200):
            if self.evaluate("document.readyState + location.href") == (
                "complete" + address
            ):
                break
            time.sleep(0.02)
        time.sleep(0.05)  # scripts that start when the page has loaded

    def complaints(self) -> list[str]:
        """Return what the console and the network say against the page."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                what = details.get("exception", {}).get("description")
                found.append(what or details["text"])
            if event.get("method") == "Runtime.consoleAPICalled":
                if params["type"] in ("error", "assert"):
                    said = [str(part.get("value")) for part in params["args"]]
                    found.append(" ".join(said))
            if event.get("method") == "Log.entryAdded":
                if params["entry"]["level"] == "error":
                    found.append(params["entry"]["text"])
            if event.get("method") == "Network.requestWillBeSent":
                address = params["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:", "about:")):
                    found.append(f"asks another server: {address}")
        return found

    def picture(self, *, dark: bool, whole: bool) -> bytes:
        """Return a screenshot as PNG."""
        scheme = "slate" if dark else "default"
        self.evaluate(f"document.body.dataset.mdColorScheme = '{scheme}'")
        time.sleep(0.4)  # colours change slowly
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        """End Chromium."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(20)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a Chromium, or say which package has it."""
    program = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if program is None:
        raise SystemExit("expected chromium on the path: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        opened = Browser(program, folder)
        try:
            yield opened
        finally:
            opened.close()


def search(opened: Browser, home: Path, word: str) -> list[str]:
    """Return what the site's search finds."""
    opened.open(f"{home.as_uri()}?q={word}", WIDTHS[-1])
    for _ in range(100):
        if found := opened.evaluate(FOUND):
            return found
        time.sleep(0.1)
    return []


def main() -> int:
    """Open the pages; return 1 where one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", help="such as start.html; default: all")
    parser.add_argument("--pictures", type=Path, help="a folder for screenshots")
    parser.add_argument("--site", type=Path, default=ROOT / "site")
    chosen = parser.parse_args()
    every = sorted(p.relative_to(chosen.site) for p in chosen.site.rglob("*.html"))
    every.remove(Path("404.html"))  # a server shows it, under any address
    pages = [Path(page) for page in chosen.pages] or every
    wrong = 0
    with browser() as opened:
        for page in pages:
            address = (chosen.site / page).resolve().as_uri()
            for width in WIDTHS:
                opened.open(address, width)
                faults = opened.evaluate(FAULTS) + opened.complaints()
                wrong += len(faults)
                for fault in faults:
                    print(f"{page} at {width}: {fault}")
                if chosen.pictures:
                    chosen.pictures.mkdir(parents=True, exist_ok=True)
                    for dark in (False, True):
                        name = "-".join(page.with_suffix("").parts)
                        name += f"-{width}{'-dark' * dark}.png"
                        shot = opened.picture(dark=dark, whole=False)
                        (chosen.pictures / name).write_bytes(shot)
        found = search(opened, (chosen.site / "index.html").resolve(), "Winograd")
    print(f"{len(pages)} pages, {wrong} faults; Winograd: {len(found)} results")
    return int(wrong > 0 or not found)


if __name__ == "__main__":
    raise SystemExit(main())
