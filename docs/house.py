"""Draw the plan of the house from the imports: ``python docs/house.py`` writes ``docs/images/house.svg``.

Each room is a box on the lowest floor that its imports allow; an arrow points to a room that it imports from. Arrows
that follow from others are left out, and those of the top floor, which uses all: tests/test_imports.py has the whole.
"""

import ast
import math
from graphlib import TopologicalSorter
from html import escape
from itertools import permutations, product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "riskvae"
PICTURE = Path(__file__).with_name("images") / "house.svg"
WIDTH, HEIGHT, GAP, FLOOR = 200, 60, 24, 122

# What a room is for, in the words of a plan.
PURPOSE = {
    "losses": "losses row by row, in nats",
    "nets": "networks: perceptrons, convolutions",
    "risk": "risk measures of losses",
    "likelihoods": "observation models p(x|z)",
    "training": "batches, the VAE, losses, the loop",
    "detection": "density of rows, calibration",
    "persistence": "files that hold no code",
    "inspect": "what is in a file, without torch",
    "estimators": "fit, transform, score, detect",
    "robustness": "margins and attacks",
    "metrics": "measures on arrays",
    "datasets": "data and simulations",
    "plotting": "displays",
    "studies": "the papers, by public names alone",
    "demo": "four examples, in the terminal",
}
TOOLS = (
    "tools for every room: parameters, arrays, devices and seeds at the border; scikit-learn's base classes, with types"
)


def imports():
    """Rooms, and the rooms that each imports from."""
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("*.py")}
    rooms.discard("__init__")
    homes = {"BetaTCVAE", "BetaVAE", "QuantileVAE", "RiskAwareVAE"}  # public names of estimators
    found = {room: set() for room in rooms}
    for path in ROOT.glob("**/*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if room in rooms and isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "riskvae":
                parts = node.module.split(".")
                names = {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
                names = {"estimators" if name in homes else name for name in names}
                found[room] |= {name for name in names if name in rooms} - {room}
    return found


def reduced(graph):
    """Arrows that do not follow from others."""
    below = {}
    for room in TopologicalSorter(graph).static_order():
        below[room] = graph[room].union(*(below[other] for other in graph[room]))
    return {room: {o for o in graph[room] if not any(o in below[p] for p in graph[room])} for room in graph}


def floors(graph):
    """Floor of each room, from the ground up."""
    floor = {}
    for room in TopologicalSorter(graph).static_order():
        floor[room] = 1 + max((floor[other] for other in graph[room]), default=-1)
    return floor


def centers(floor, arrows):
    """Find the middle of each room: of all orders on the floors, the one with the shortest arrows."""
    rows = [sorted(room for room in floor if floor[room] == f) for f in range(max(floor.values()) + 1)]
    width = max(map(len, rows)) * (WIDTH + GAP) + GAP
    pairs = sorted((room, other) for room in arrows for other in arrows[room])
    best, middle = math.inf, {}
    for order in product(*map(permutations, rows)):
        x = {room: width * (i + 0.5) / len(row) for row in order for i, room in enumerate(row)}
        cost = sum(abs(x[room] - x[other]) ** 1.5 for room, other in pairs)
        best, middle = (cost, x) if cost < best else (best, middle)
    top = (len(rows) - 1) * FLOOR + GAP
    return {room: (middle[room], top - floor[room] * FLOOR) for room in floor}, width, top


def spread(room, others, center):
    """Lay the ends of a room's arrows side by side in the order of the rooms at their other ends."""
    ordered = sorted(others, key=lambda other: (center[other][0], other))
    step = WIDTH / (len(ordered) + 1)
    return {other: center[room][0] - WIDTH / 2 + step * (i + 1) for i, other in enumerate(ordered)}


def gaps(start, end, center):
    """Find where an arrow between two rooms passes the floors between them: the gap nearest to its way, for each."""
    (x, y), (a, b) = center[start], center[end]
    passed = []
    for top in range(y + FLOOR, b, FLOOR):
        row = sorted(other for other, level in center.values() if level == top)
        edges = [row[0] - (WIDTH + GAP) / 2, *(other + (WIDTH + GAP) / 2 for other in row)]
        edges = [edge for edge in edges if all(abs(edge - other) > WIDTH / 2 for other in row)]
        way = x + (a - x) * (top - y) / (b - y)
        passed.append((min(edges, key=lambda edge: abs(edge - way)), top))
    return passed


def arrow(start, passed, end):
    """Draw a curve from the floor of one room, through gaps between others, to the roof of another."""
    (x, y), curve = start, f"M{start[0]:.0f} {start[1]:.0f}"
    for a, b, straight in [*((*point, HEIGHT) for point in passed), (end[0], end[1] - 2, 0)]:
        bend = (b - y) / 2
        curve += f" C{x:.0f} {y + bend:.0f} {a:.0f} {b - bend:.0f} {a:.0f} {b:.0f}"
        curve += f" V{b + straight:.0f}" if straight else ""
        x, y = a, b + straight
    return f'<path d="{curve}" fill="none" stroke="#7a8699" stroke-width="1.4" marker-end="url(#tip)"/>'


def box(left, top, width, label, purpose, fill, stroke):
    """Draw a room with its name and purpose."""
    x = left + width / 2
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="6" fill="{fill}" '
        f'stroke="{stroke}"/>'
        f'\n<text x="{x:.0f}" y="{top + 26:.0f}" text-anchor="middle" font-size="17" font-weight="bold" fill="#1d2733">'
        f'{label}</text>\n<text x="{x:.0f}" y="{top + 46:.0f}" text-anchor="middle" font-size="11.5" fill="#3f4b5b">'
        f"{escape(purpose)}</text>"
    )


def draw():
    """Picture as text."""
    graph = imports()
    tools = sorted(room for room in graph if room.startswith("_"))
    graph = {room: graph[room] - set(tools) for room in graph if room not in tools}
    arrows = reduced(graph)
    arrows["studies"] = set()
    center, width, ground = centers(floors(graph), arrows)
    users = {room: {other for other in arrows if room in arrows[other]} for room in arrows}
    height = ground + FLOOR + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<title>The rooms of riskvae, and what each imports from</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#7a8699"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for room in sorted(arrows):
        starts = spread(room, arrows[room], center)
        for other in sorted(arrows[room]):
            end = spread(other, users[other], center)[room]
            passed = gaps(room, other, center)
            parts.append(arrow((starts[other], center[room][1] + HEIGHT), passed, (end, center[other][1])))
    for room in sorted(arrows):
        x, y = center[room]
        label = f"{room}/" if (ROOT / room).is_dir() else f"{room}.py"
        parts.append(box(x - WIDTH / 2, y, WIDTH, label, PURPOSE[room], "#e8f1fb", "#5b8fc7"))
    label = ", ".join(f"{room}.py" for room in tools)
    parts.append(box(GAP, ground + FLOOR - GAP, width - 2 * GAP, label, TOOLS, "#f2f4f7", "#c3cad5"))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(PICTURE)
