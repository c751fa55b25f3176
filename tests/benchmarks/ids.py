"""Reading ids from a CSV of the real format, against `csv.reader`: a million rows, 15 columns, 4.3 rows per id, 160 MB.

Time is CPU time in a process, from `open` to the last id, without imports. Memory is the peak of a process that imports
`harvester.sources.csv` and only reads; for comparison, that of one with the same imports that reads nothing.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from bench import Row, medians

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench import Bench

ROWS, QUICK_ROWS = 1_000_000, 100_000

TIME, PEAK = 0.6, 40_000_000
"""The goals: share of the time of `csv.reader`; bytes."""

HEADER = (
    "id|tituloPincipal|tituloOriginal|anoLancamento|tempoMinutos|genero|notaMedia|numeroVotos|generoArtista|personagem|"
    "nomeArtista|anoNascimento|anoFalecimento|profissao|titulosMaisConhecidos"
)
TITLES = (
    "A Trip to the Moon",
    'The "Quiet" Harbour',
    '"Lone quote',
    "Ends in a backslash\\",
    "São Tomé, 40°",
    "七人の侍",
    "Line\u2028separator and next\u0085line",
    "Rain 🌧️, again; and again, the second and longer part of it",
)
PEOPLE = ("Charles Chaplin", "Edna Purviance", "Zoë Ağaoğlu", 'Samuel "Sam" O\'Neill', "黒澤明", "Ana Lúcia de Sá")
ARTISTS = (1, 1, 2, 3, 4, 5, 6, 7, 7, 7)
"""How many rows a title has, all equally likely: 4.3 on average."""
KNOWN = 0.4
"""Share of the artists with more columns than the name."""

OURS = """
import resource, sys, time
from harvester.sources.csv import read_ids
if len(sys.argv) > 1:
    began = time.process_time()
    ids = read_ids(sys.argv[1])
    print(time.process_time() - began, len(ids.ids), ids.rows)
"""
THEIRS = """
import csv, sys, time
began = time.process_time()
seen = {}
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    rows = csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE)
    next(rows)
    count = 0
    for row in rows:
        seen[row[0]] = None
        count += 1
print(time.process_time() - began, len(seen), count)
"""


async def measure(bench: Bench) -> dict[str, float]:
    """CPU seconds and bytes of both, with the same CSV in every run."""
    path = bench.folder / "million.csv"
    if not path.exists():
        _write(path, QUICK_ROWS if bench.quick else ROWS)
    ours, theirs = await bench.python("-c", OURS, str(path)), await bench.python("-c", THEIRS, str(path))
    idle = await bench.python("-c", OURS)
    (seconds, *found), (their_seconds, *their_found) = ours.out.split(), theirs.out.split()
    if found != their_found:
        raise RuntimeError(f"ids and rows are {found}, and of csv.reader {their_found}")
    return {
        "ours": float(seconds),
        "theirs": float(their_seconds),
        "ids": float(found[0]),
        "file_bytes": float(path.stat().st_size),
        "peak_bytes": float(ours.peak_bytes),
        "their_peak_bytes": float(theirs.peak_bytes),
        "idle_bytes": float(idle.peak_bytes),
    }


def _write(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{HEADER}\n")
        file.writelines(_lines(rows))


def _lines(rows: int) -> Iterator[str]:
    """Rows, the same in every run, with everything that has broken readers of the real files."""
    dice = random.Random(1)
    left = rows
    number = 417
    while left:
        number += dice.randrange(1, 90)
        title, other = dice.choice(TITLES), dice.choice(TITLES)
        year, minutes, votes = dice.randrange(1902, 2027), dice.randrange(40, 220), dice.randrange(5, 2_000_000)
        about = f"{title}|{other}|{year}|{minutes}|Action,Adventure,Drama|{dice.randrange(10, 99) / 10}|{votes}"
        for _ in range(min(left, dice.choice(ARTISTS))):
            left -= 1
            who = f"actress|\\N|{dice.choice(PEOPLE)}|\\N|\\N|\\N|\\N"
            if dice.random() < KNOWN:
                titles = ",".join(f"tt{dice.randrange(10**7):07d}" for _ in range(4))
                who = f"actor|The Stranger|{dice.choice(PEOPLE)}|1889|\\N|writer,actor,director|{titles}"
            yield f"tt{number:07d}|{about}|{who}\n"


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goal 9: time and memory."""
    seen = medians(runs)
    share = medians([{"time": run["ours"] / run["theirs"]} for run in runs])["time"]
    grown = seen["peak_bytes"] - seen["idle_bytes"]
    return [
        Row(
            9,
            f"{seen['ids']:,.0f} ids out of {seen['file_bytes'] / 1e6:.0f} MB of CSV, against `csv.reader`, "
            f"{seen['theirs']:.2f} s of CPU",
            f"≤ {TIME} ×",
            f"{seen['ours']:.2f} s, {share:.2f} ×",
            share <= TIME,
        ),
        Row(
            9,
            f"peak memory for that (with `csv.reader` {seen['their_peak_bytes'] / 1e6:.0f} MB)",
            f"≤ {PEAK / 1e6:.0f} MB",
            f"{seen['peak_bytes'] / 1e6:.1f} MB, {grown / 1e6:.1f} of them by reading",
            seen["peak_bytes"] <= PEAK,
        ),
    ]
