"""`dagster dev` on a free port as a user starts it, and a headless Chromium to look at it."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import (
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

import orchestration

START_TIMEOUT_S = 180.0
PAGE_TIMEOUT_S = 90.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_REPOSITORY = (
    'repositoryLocationName: "orchestration.definitions", repositoryName: "__repository__"'
)
# No proxy: the server is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def find_browser() -> tuple[str, str] | None:
    """Paths of Chromium and of its driver, or None if either is missing."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Server:
    """A running `dagster dev`."""

    def __init__(self, url: str, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self._log = log
        self._process = process

    def kill_daemon(self) -> None:
        """As kill -9 does. `dagster dev` ends when it notices."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        (daemon,) = [c for c in children if "dagster._daemon" in " ".join(c.cmdline())]
        daemon.kill()
        self._process.wait(timeout=60)

    def query(self, query: str) -> dict[str, Any]:
        """The data that GraphQL answers."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with _OPENER.open(request, timeout=30) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def is_up(self) -> bool:
        try:
            with _OPENER.open(f"{self.url}/server_info", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def add_partitions(self, batches: list[str]) -> None:
        selector = f'repositorySelector: {{{_REPOSITORY}}}, partitionsDefName: "source_batch"'
        for batch in batches:
            answer = self.query(
                f'mutation {{ addDynamicPartition({selector}, partitionKey: "{batch}") {{ __typename }} }}'
            )
            assert answer["addDynamicPartition"]["__typename"] == "AddDynamicPartitionSuccess"

    def materialize(self, asset: str, batch: str) -> None:
        """As the button does for one partition."""
        selection = f'jobName: "__ASSET_JOB", assetSelection: [{{path: ["{asset}"]}}]'
        tag = f'tags: [{{key: "dagster/partition", value: "{batch}"}}]'
        parameters = (
            f"selector: {{{_REPOSITORY}, {selection}}}, executionMetadata: {{{tag}}}, "
            "runConfigData: {}"
        )
        answer = self.query(
            f"mutation {{ launchRun(executionParams: {{{parameters}}}) {{ __typename }} }}"
        )
        assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer

    def states(self) -> list[str]:
        """That of each run, the last first."""
        runs = self.query("{ runsOrError { ... on Runs { results { status } } } }")
        return [run["status"] for run in runs["runsOrError"]["results"]]

    def wait_for_runs(self, timeout_s: float, count: int = 1) -> list[str]:
        """The states of all runs, once there are so many and none is under way."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            states = self.states()
            if len(states) >= count and set(states) <= {"SUCCESS", "FAILURE", "CANCELED"}:
                return states
            time.sleep(2)
        raise AssertionError(f"the run did not end in {timeout_s:.0f} s:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-8000:]


@contextmanager
def dagster_dev(home: Path, **variables: str) -> Generator[Server]:
    """The commands of `make ui`, on a port of its own; ended with all its processes, but for runs.

    A `dagster.yaml` that lies there already stays.
    """
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    (home / "sources").mkdir(exist_ok=True)
    package = Path(orchestration.__file__).parent
    port = free_port()
    dagster = str(Path(sys.executable).with_name("dagster"))
    command = [
        dagster,
        "dev",
        "-m",
        "orchestration.definitions",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    environment = (
        os.environ | {"DAGSTER_HOME": str(home / "dagster"), "STIV_HOME": str(home)} | variables
    )
    if not (home / "dagster" / "dagster.yaml").exists():
        shutil.copy(package / "dagster.yaml", home / "dagster")
        limit = [dagster, "instance", "concurrency", "set", "ray", "1"]
        subprocess.run(
            limit, env=environment, check=True, capture_output=True, timeout=START_TIMEOUT_S
        )
    log = home / "dagster-dev.log"
    # A process that is born with SIGINT ignored cannot be ended but by force: Dagster copies that onto SIGTERM.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=package.parent,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    finally:
        signal.signal(signal.SIGINT, before)
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        _wait_until_up(server, process)
        yield server
    finally:
        end(process)


@contextmanager
def chromium(browser: str, driver: str, profile: Path) -> Generator["Page"]:
    """A headless browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--no-proxy-server",
        "--window-size=1440,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Page(opened)
    finally:
        opened.quit()


class Page:
    """What a person does on a page: wait for a text, click on it, type, look at pictures."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self._browser = browser
        # The page may replace an element between two questions about it.
        self._wait = WebDriverWait(
            browser, PAGE_TIMEOUT_S, 0.5, ignored_exceptions=[StaleElementReferenceException]
        )

    def open(self, url: str) -> None:
        self._browser.get(url)

    def see(self, text: str) -> WebElement:
        """The last visible element with this text, once it is there; the innermost of several."""
        has = f"contains(normalize-space(.), '{text}')"
        path = f"//*[{has} and not(.//*[{has}])]"

        def visible(browser: webdriver.Chrome) -> WebElement | Literal[False]:
            found = [e for e in browser.find_elements(By.XPATH, path) if e.is_displayed()]
            return found[-1] if found else False

        return self._wait.until(visible, f"no {text!r} on {self._browser.current_url}")

    def scroll_to(self, text: str) -> None:
        """Bring it to the middle of the window."""
        script = "arguments[0].scrollIntoView({block: 'center'})"
        self._browser.execute_script(script, self.see(text))

    def click(self, text: str) -> None:
        self.see(text)
        # Through the page, because the graph and the dialogs are animated and move while one aims.
        self._browser.execute_script("arguments[0].click()", self.see(text))

    def type(self, placeholder: str, text: str) -> None:
        fields = (By.CSS_SELECTOR, f"[placeholder='{placeholder}']")

        def typed(browser: webdriver.Chrome) -> bool:
            try:
                browser.find_element(*fields).send_keys(text)
            except (NoSuchElementException, ElementNotInteractableException):
                return False  # It is there before one can type in it.
            return True

        self._wait.until(typed, f"no field {placeholder!r} on {self.address}")

    def wait_until_gone(self, text: str) -> None:
        path = f"//*[contains(text(), '{text}')]"
        self._wait.until_not(
            lambda browser: browser.find_elements(By.XPATH, path), f"{text!r} stays"
        )

    def pick_partition(self, name: str) -> None:
        """In the launchpad of a job."""
        self.type("Partition", name)
        time.sleep(2)  # The suggestions follow after a pause in typing.
        self.type("Partition", Keys.ENTER)
        self.see(f"partition: {name}")

    def write_config(self, text: str) -> None:
        """Replace what the editor of the launchpad holds."""
        editor = (By.CSS_SELECTOR, ".CodeMirror")
        found = self._wait.until(lambda browser: browser.find_element(*editor))
        self._browser.execute_script("arguments[0].CodeMirror.setValue(arguments[1])", found, text)
        time.sleep(3)  # It is checked after a pause in typing.

    def launch(self) -> None:
        """Start what the launchpad holds, and come to the page of the run."""
        self.see("No errors")
        self.click("Launch Run")
        self._wait.until(
            lambda browser: "/runs/" in browser.current_url, "the run was not launched"
        )

    @property
    def address(self) -> str:
        return self._browser.current_url

    def address_of(self, end: str) -> str:
        """Where a link goes whose address ends so."""
        links = (By.CSS_SELECTOR, f"a[href$='{end}']")
        link = self._wait.until(lambda browser: browser.find_element(*links))
        return str(link.get_attribute("href"))

    def is_green(self, asset: str) -> bool:
        """Whether the box of an asset in the graph has a green frame, as one has that is materialised and passed its
        checks.
        """
        script = """
            const frames = [];
            for (const leaf of document.querySelectorAll('*')) {
                if (leaf.childElementCount || leaf.textContent.trim() !== arguments[0]) continue;
                for (let node = leaf; node; node = node.parentElement) {
                    const style = getComputedStyle(node);
                    if (parseFloat(style.borderTopWidth) < 1 || style.borderTopStyle === 'none') continue;
                    frames.push(style.borderTopColor.match(/[0-9.]+/g).map(Number));
                    break;
                }
            }
            return frames;
        """
        self.see(asset)
        frames = self._browser.execute_script(script, asset)
        return any(green > max(red, blue) + 30 for red, green, blue, *_ in frames)

    def wait_until_green(self, asset: str) -> None:
        self._wait.until(lambda _: self.is_green(asset), f"{asset} is not green on {self.address}")

    def picture_width_px(self, alt: str) -> int:
        """The width of the decoded picture: 0 would be a broken one."""
        pictures = (By.CSS_SELECTOR, f"img[alt='{alt}']")
        picture = self._wait.until(lambda browser: browser.find_element(*pictures))
        return self._browser.execute_script("return arguments[0].naturalWidth", picture)

    def darken(self, dark: bool) -> None:
        """As the system setting for a dark appearance does, which the UI follows by default."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def upload(self, path: Path, kind: Literal["image", "video"] = "image") -> None:
        """Give a file to the first field of the visible tab that takes such, and wait until it is shown."""
        script = (
            "return [...document.querySelectorAll('input[type=file]')]"
            ".find(e => e.accept.includes(arguments[0]) && e.parentElement.offsetParent)"
        )
        field = self._wait.until(lambda browser: browser.execute_script(script, kind))
        field.send_keys(str(path))
        tag = {"image": "img", "video": "video"}[kind]
        shown = (By.CSS_SELECTOR, f"{tag}[src$='{path.name}']")
        self._wait.until(lambda browser: browser.find_element(*shown))

    def play(self, count: int) -> list[str]:
        """The addresses of the visible videos, once there are so many and each has a decoded picture."""
        script = (
            "return [...document.querySelectorAll('video')]"
            ".filter(v => v.offsetParent && v.videoWidth > 0).map(v => v.src)"
        )
        return self._wait.until(
            lambda browser: len(found := browser.execute_script(script)) == count and found,
            f"not {count} videos on {self._browser.current_url}",
        )

    def hosts(self) -> set[str]:
        """Every host that the page has asked for something."""
        script = (
            "return performance.getEntriesByType('resource').map(e => new URL(e.name).hostname)"
        )
        return set(self._browser.execute_script(script))

    def save(self, path: Path) -> None:
        """A screenshot as a palette PNG, a third as large as a true-colour one."""
        time.sleep(2)  # Dialogs fade in.
        with Image.open(io.BytesIO(self._browser.get_screenshot_as_png())) as picture:
            picture.convert("RGB").quantize(128).save(path, optimize=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_up(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not server.is_up():
        assert process.poll() is None, f"dagster dev ended:\n{server.log_tail()}"
        assert time.monotonic() < deadline_s, f"dagster dev is silent:\n{server.log_tail()}"
        time.sleep(1)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
