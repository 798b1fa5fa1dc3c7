"""Look at the built pages in Chromium, without a network, and say what is wrong with them.

``python docs/browse.py [--screenshots FOLDER]`` after ``make docs`` opens every page of ``docs/_build/html``. It checks
that nothing is loaded from elsewhere and nothing fails, that no page is wider than a window of 390 or 1,280 pixels,
that code is not cut at 1,280, that formulas are drawn and fit, that text stands out from its background in light and
dark, that links lead somewhere, and that the search finds pages. It returns 1 if anything is wrong.

It needs Chromium, or the name of such a browser in the environment variable CHROMIUM.
"""

import argparse
import os
import shutil
import sys
import threading
import time
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

BUILT = Path(__file__).parent / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NARROW, WIDE = 390, 1280
HEIGHT = 900
# A word, and pages of which at least one must be among the first results.
SEARCHES = {
    "missing": ("guide/missing.html",),
    "categorical": ("guide/columns.html",),
    "save": ("guide/deploy.html",),
    "GPU": ("guide/install.html", "guide/training.html", "guide/speed.html"),
    "install": ("guide/install.html",),
    "cite": ("guide/install.html",),
}
FIRST = 5  # so many results count as the first
# Pages of each kind, looked at in every width and in both colors.
SHOWN = (
    "index.html",
    "guide/index.html",
    "guide/tail_risk.html",
    "auto_examples/index.html",
    "auto_examples/plot_quickstart.html",
    "api/index.html",
    "api/generated/riskvae.RiskAwareVAE.html",
    "results/index.html",
    "results/tails/tables.html",
    "decisions.html",
)
CONTRAST = 4.5  # of text and background, at least (WCAG 2, level AA)

# What a page says of itself. The window is {width, height}; what it finds is a list of sentences.
LOOK = """
([wide, least]) => {
  const found = [], page = document.scrollingElement;
  const name = (e) => (e.innerText || e.textContent || e.outerHTML).trim().replace(/\\s+/g, " ").slice(0, 60);
  if (page.scrollWidth > window.innerWidth) {
    const last = [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > innerWidth);
    found.push(`is ${page.scrollWidth} pixels wide; wider than the window is "${last.length ? name(last[0]) : "?"}"`);
  }
  const article = document.querySelector(".bd-article-container");
  if (article && article.scrollWidth > article.clientWidth)
    found.push(`has an article ${article.scrollWidth} pixels wide, and room for ${article.clientWidth}`);
  for (const pre of document.querySelectorAll("pre"))
    if (wide && pre.checkVisibility() && pre.scrollWidth > pre.clientWidth)
      found.push(`cuts code (${pre.scrollWidth} pixels, room for ${pre.clientWidth}): "${name(pre)}"`);
  for (const math of document.querySelectorAll("article .math")) {
    const drawn = math.querySelector("mjx-container svg");
    // Names that MathJax does not know are drawn in red.
    if (!drawn || math.querySelector("mjx-merror, [data-mml-node=merror], [fill=red], [stroke=red]"))
      found.push(`has a formula that is not drawn: "${name(math)}"`);
    else if (math.checkVisibility()) {
      const box = math.closest("p, dd, li, td, div").getBoundingClientRect(), rect = drawn.getBoundingClientRect();
      if (rect.right > box.right + 1 || rect.left < box.left - 1)
        found.push(`has a formula wider than its box (${rect.width | 0} pixels, room for ${box.width | 0})`);
    }
  }
  for (const image of document.querySelectorAll("img"))
    if (image.loading !== "lazy" && image.complete && !image.naturalWidth) found.push(`lacks the picture ${image.src}`);
  // Colors as red, green, blue and opacity; other notations are not understood, and said to be.
  const channels = (color) => {
    if (!color.startsWith("rgb")) found.push(`has a color that cannot be judged: ${color}`);
    return (color.match(/[\\d.]+/g) || []).map(Number);
  };
  const opacity = (e) => (e ? Number(getComputedStyle(e).opacity) * opacity(e.parentElement) : 1);
  const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color.length && (color.length < 4 || color[3] > 0.5)) return color;
    }
    return [255, 255, 255];
  };
  const pale = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    const seen = e.checkVisibility({visibilityProperty: true, opacityProperty: true});
    if (!seen || !walker.currentNode.data.trim() || !e.getClientRects().length || e.closest("mjx-container")) continue;
    const ground = behind(e), color = channels(getComputedStyle(e).color), share = (color[3] ?? 1) * opacity(e);
    const mixed = color.slice(0, 3).map((v, i) => share * v + (1 - share) * ground[i]);
    const [a, b] = [luminance(mixed), luminance(ground)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const kind = `${e.tagName} ${e.className} ${getComputedStyle(e).color}`;
    if (contrast < least) pale.set(kind, `has pale text (contrast ${contrast.toFixed(1)}): "${name(e)}"`);
  }
  return found.concat([...pale.values()]);
}
"""


def browser_path() -> str:
    """Where Chromium is."""
    named = os.environ.get("CHROMIUM")
    found = [shutil.which(name) for name in ([named] if named else BROWSERS)]
    if not any(found):
        raise SystemExit(
            "docs/browse.py needs Chromium or Chrome: install one (on Debian and Ubuntu: apt-get install chromium), or "
            "set the environment variable CHROMIUM to the path of one."
        )
    return next(path for path in found if path)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and prints nothing."""

    def log_message(self, *arguments):
        """Print nothing."""


def serve(folder):
    """Serve a folder in the background; return the server, whose port is free."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


# --------------------------------------------------------------------------------------------------------------- links


class Page(HTMLParser):
    """What a page links to, what it loads, and the names of its places."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.places = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note what a tag says."""
        told = dict(attrs)
        self.places |= {told[key] for key in ("id", "name") if told.get(key)}
        if tag == "a" and told.get("href"):
            self.links.append(told["href"])
        elif tag == "link" and told.get("rel") in ("stylesheet", "icon", "preload") and told.get("href"):
            self.loads.append(told["href"])
        elif told.get("src"):
            self.loads.append(told["src"])


def bad_links(folder, names):
    """Links of all pages that lead nowhere, and what pages would load from elsewhere, as sentences by page."""
    pages = {name: Page((folder / name).read_text("utf-8")) for name in names}
    faults = []
    for name, page in sorted(pages.items()):
        for address in dict.fromkeys(page.loads):
            local = unquote(urlsplit(urljoin(f"/{name}", address)).path).lstrip("/")
            if urlsplit(address).netloc:
                faults.append(f"{name}: loads {address} from elsewhere")
            elif urlsplit(address).scheme != "data" and not (folder / local).is_file():
                faults.append(f"{name}: {address}, which it loads, is not there")
        for link in dict.fromkeys(page.links):
            if urlsplit(link).scheme or urlsplit(link).netloc:
                continue
            target, place = urldefrag(urljoin(f"/{name}", link))
            target = unquote(urlsplit(target).path).lstrip("/") or "index.html"
            if not (folder / target).is_file():
                faults.append(f"{name}: the link {link} leads nowhere")
            elif target in pages and unquote(place) not in pages[target].places:
                faults.append(f"{name}: the link {link} leads to a page without that place")
    return faults


# ------------------------------------------------------------------------------------------------------------- browser


class Visitor:
    """Opens pages in a browser, and collects what is wrong."""

    def __init__(self, browser, address, color, screenshots=None):
        self.address, self.color, self.screenshots = address, color, screenshots
        self.faults, self.name = [], ""
        self.page = browser.new_page(viewport={"width": WIDE, "height": HEIGHT}, color_scheme=color)
        self.page.on("console", lambda message: message.type == "error" and self.blame(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.blame(f"error: {error}"))
        self.page.on("requestfailed", lambda request: self.blame(f"cannot load {request.url}"))
        self.page.on("response", lambda answer: answer.status >= 400 and self.blame(f"{answer.status}: {answer.url}"))

    def blame(self, what):
        """Note that the page has a fault, once."""
        if f"{self.name}: {what}" not in self.faults:
            self.faults.append(f"{self.name}: {what}")

    def open(self, name):
        """Open a page, and wait for its formulas."""
        self.name = name
        self.page.goto(f"{self.address}/{name}", wait_until="load")
        if self.page.query_selector(".math") and self.page.evaluate("!!window.MathJax?.startup?.promise"):
            self.page.evaluate("MathJax.startup.promise.then(() => null)")

    def look(self, name, widths):
        """Check a page at some widths of the window."""
        self.open(name)
        for width in widths:
            self.page.set_viewport_size({"width": width, "height": HEIGHT})
            for fault in self.page.evaluate(LOOK, [width == WIDE, CONTRAST]):
                self.blame(f"at {width} pixels, {self.color}: {fault}")
            if self.screenshots and name in SHOWN:
                file = name.removesuffix(".html").replace("/", "-")
                self.page.screenshot(path=self.screenshots / f"{file}-{width}-{self.color}.png")

    def search(self, word, pages):
        """Search for a word; one of the pages must be among the first results."""
        self.open(f"search.html?q={word}")
        results = self.page.locator("#search-results ul.search li > a:first-of-type")
        try:
            self.page.wait_for_function(
                "document.querySelector('#search-results p.search-summary')?.innerText.length > 0"
            )
            results.first.wait_for(timeout=5_000)
            self.page.wait_for_timeout(300)  # for those after it
        except Exception as error:
            if type(error).__name__ != "TimeoutError":
                raise
            return self.blame(f"finds nothing for {word!r}")
        first = [urlsplit(link.get_attribute("href")).path.lstrip("./") for link in results.all()[:FIRST]]
        if not set(first) & set(pages):
            self.blame(f"a search for {word!r} finds {', '.join(first)} first, and none of {', '.join(pages)}")


def visit(folder, names, screenshots):
    """Look at all pages, and at some in all settings; return how many looks there were, and what is wrong."""
    from playwright.sync_api import sync_playwright

    shown = [name for name in SHOWN if name in names]
    server = serve(folder)
    address = f"http://127.0.0.1:{server.server_port}"
    # No other machine has an address: a request to one fails, and is told.
    options = {"args": ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-sandbox"]}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), **options)
        light, dark = (Visitor(browser, address, color, screenshots) for color in ("light", "dark"))
        for name in names:
            light.look(name, (WIDE, NARROW))
        for name in shown:
            dark.look(name, (WIDE, NARROW))
        for word, pages in SEARCHES.items():
            light.search(word, pages)
        browser.close()
    server.shutdown()
    print(f"{len(names)} pages at {WIDE} and {NARROW} pixels, {len(shown)} of them in the dark, too")
    print(f"searches for {', '.join(SEARCHES)}")
    return light.faults + dark.faults


def main():
    """Print an account, and what is wrong; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PAGE", help="what to open, as index.html (default: every page)")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write pictures of some pages to a folder")
    parser.add_argument(
        "--pages", type=Path, metavar="FOLDER", default=BUILT, help="what to look at (docs/_build/html)"
    )
    options = parser.parse_args()
    if not (options.pages / "index.html").exists():
        raise SystemExit(f"{options.pages} has no pages: run make docs first")
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    built = {path.relative_to(options.pages).as_posix() for path in options.pages.rglob("*.html")}
    built = {name for name in built if not name.startswith("_")}  # templates of the theme are no pages
    names = sorted(options.names or built)
    faults = [f"{name}: is not there" for name in sorted({*SHOWN, *names} - built)]
    faults += bad_links(options.pages, built) + visit(options.pages, names, options.screenshots)
    print("\n".join([*faults, f"{len(faults)} faults, in {time.perf_counter() - start:.0f} s"]))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
