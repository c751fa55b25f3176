"""What the records of TMDB look like: shapes, with random values for the fields that differ between titles.

A shape is a value, a function that draws one, a list of one shape, or a dict of shapes. Types and sizes follow 196
recorded bodies. The texts are our own, and difficult on purpose: quotes, backslashes, U+2028, Portuguese, Japanese,
emoji.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from harvester.model.ids import number_of, title_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Record: TypeAlias = dict[str, Any]

# TMDB numbers each kind separately. Each mask is its own inverse (XOR) and all differ: neither an IMDb number nor the
# TMDB id of another kind can be right by chance.
_MASKS: Final = {"movie": 0x1A5_3C96, "tv": 0x0C3_69A5, "episode": 0x17E_7E81, "season": 0x0B1_0B1B}
NULL: Final = 0.02  # Share of movies whose own `imdb_id` is null, and of all records whose date is empty.
_RUNNING: Final = 0.2  # Share of series with more episodes to come.

# The lists of one table have equal lengths: the language changes a record's texts, but no random choice.
_SENTENCES: Final = {
    "en": (
        'Two sisters inherit a lighthouse, a debt and a parrot that only says "not again" in three languages.',
        r"A cartographer files yesterday's road under C:\maps\nine, and by the morning somebody has to walk it.",
        "When the tide forgets to come back, a fishing village learns what it had been keeping under the water.",
        "Rain falls upward for a week.\u2028On the eighth day Zoë of São Tomé wants her clouds back 🌧️.",
    ),
    "pt": (
        'Duas irmãs herdam um farol, uma dívida e um papagaio que só sabe dizer "outra vez não" em três línguas.',
        r"Uma cartógrafa arquiva a estrada de ontem em C:\mapas\nove, e de manhã alguém tem de a percorrer.",
        "Quando a maré se esquece de voltar, a aldeia descobre o que andava a guardar debaixo de água.",
        "Chove para cima durante uma semana.\u2028Ao oitavo dia, Zoë de São Tomé quer as nuvens de volta 🌧️.",
    ),
    "ja": (
        '姉妹は灯台と借金と、三つの言葉で"もうたくさん"としか言わないオウムを受け継ぐ。',
        r"地図職人は昨日の道を C:\地図\九 にしまう。翌朝、誰かがそこを歩かなければならない。",
        "潮が帰るのを忘れたとき、漁村は水の下に何を隠していたかを知る。",
        "一週間、雨は空へ向かって降る。\u2028八日目、サントメのゾエは雲を返せと言う 🌧️。",
    ),
}
_NAMES: Final = {
    "en": ("The Lighthouse Debt", "Salt \\ Sugar", 'A "Quiet" Harbour', "Glass Moons 🌙", "Zoë's Radio"),
    "pt": ("A Dívida do Farol", "Sal \\ Açúcar", 'Um Porto "Calmo"', "Luas de Papel 🌙", "O Rádio de Zoë"),
    "ja": ("灯台の借金", "塩 \\ 砂糖", '"静かな"港', "紙の月 🌙", "ゾエのラジオ"),
}


def share(*what: object) -> float:
    """A number in [0, 1) that follows from `what`, the same in every process."""
    return _seed(*what) / 2**48


def pick(shares: Mapping[str, float], chance: float) -> str | None:
    """The name to whose share of [0, 1) `chance` belongs; None if it is in no share."""
    for name, part in shares.items():
        if chance < part:
            return name
        chance -= part
    return None


def tmdb_id(kind: str, tt: str) -> int:
    """TMDB's number for this IMDb id as a movie, tv, episode or season; `imdb_id` is the inverse."""
    return number_of(tt) ^ _MASKS[kind]


def imdb_id(kind: str, number: int) -> str:
    """The IMDb id behind TMDB's `number` for a kind."""
    return title_id(number ^ _MASKS[kind])


def _seed(*what: object) -> int:
    return int.from_bytes(blake2b("\0".join(map(str, what)).encode(), digest_size=6).digest(), "big")


def dice_for(*what: object) -> Random:
    """A random generator seeded with `what`: the same numbers in every process."""
    return Random(_seed(*what))  # noqa: S311  # no secret hangs on them


@dataclass(frozen=True, slots=True)
class Subject:
    """The title that a record describes, and the random generator for its values."""

    kind: str
    tt: str
    language: str | None
    dice: Random
    title: str = ""
    year: str = ""


def fill(shape: Any, of: Subject) -> Any:
    """The shape with a random value for each function in it, and one to four rows for each list of one shape."""
    if isinstance(shape, dict):
        return {key: fill(inner, of) for key, inner in shape.items()}
    if isinstance(shape, list):
        return [fill(inner, of) for inner in shape * (1 + int(of.dice.random() * 4))]
    return shape(of) if callable(shape) else shape


def _say(table: Mapping[str, tuple[str, ...]]) -> Callable[[Subject], str]:
    """One text of the table in the requested language; English after the language's name, if the table lacks it."""

    def say(of: Subject) -> str:
        language = (of.language or "en")[:2]
        text = of.dice.choice(table.get(language, table["en"]))
        return text if language in table else f"({of.language}) {text}"

    return say


def _below(limit: int) -> Callable[[Subject], int]:
    return lambda of: int(of.dice.random() * limit)


def _up_to(limit: float) -> Callable[[Subject], float]:
    """A number with sixteen digits, like TMDB's own."""
    return lambda of: of.dice.random() * limit


def _one(*shapes: Any) -> Callable[[Subject], Any]:
    return lambda of: fill(of.dice.choice(shapes), of)


def _single(*shapes: Any) -> Callable[[Subject], list[Any]]:
    return lambda of: [fill(of.dice.choice(shapes), of)]


def _if_running(yes: Any, no: Any) -> Callable[[Subject], Any]:
    return lambda of: fill(yes if share("running", of.tt) < _RUNNING else no, of)


def _many(shape: Any, least: int, most: int) -> Callable[[Subject], list[Any]]:
    """From `least` rows to fewer than `most`: usually few, rarely many."""
    return lambda of: [fill(shape, of) for _ in range(least + int((most - least) * of.dice.random() ** 5))]


def _image(of: Subject) -> str | None:
    return f"/{of.dice.getrandbits(108):027x}.jpg" if of.dice.random() * 5 > 1 else None


def _hex(of: Subject) -> str:
    return f"{of.dice.getrandbits(96):024x}"


def _story(of: Subject) -> str:
    return " ".join(_sentence(of) for _ in range(1 + int(of.dice.random() * 3)))


def _date(of: Subject) -> str:
    return f"{of.year}-{1 + int(of.dice.random() * 12):02}-01" if re.fullmatch("[0-9]{4}", of.year) else ""


def _title(of: Subject) -> str:
    return of.title


def _tmdb_id(of: Subject) -> int:
    return tmdb_id(of.kind, of.tt)


def _show_id(of: Subject) -> int:
    """The id of the series itself; for an episode or a season, of the series whose IMDb number is one less."""
    return tmdb_id("tv", of.tt if of.kind == "tv" else title_id(max(number_of(of.tt) - 1, 0)))


_sentence, name_of = _say(_SENTENCES), _say(_NAMES)
_person = _one("Inês d'Ávila", "Haruki Ōe", "Björk Þórs", 'Mary "Mo" O\'Neil', "Lucía Peña", "王小雨")

# At TMDB a key has the same type of value wherever it occurs; the few exceptions are written where they occur.
_VALUES: Final[Record] = {
    key: value
    for value, keys in (
        (False, "adult official softcore video"),
        ("", "certification description homepage note production_code"),
        (_image, "avatar_path backdrop_path file_path logo_path poster_path profile_path still_path"),
        (name_of, "english_name name provider_name"),
        (_person, "author character original_name username"),
        (_title, "original_title title"),
        (_sentence, "content overview tagline value"),
        (_hex, "_id credit_id facebook_id instagram_id key twitter_id wikidata_id"),
        (_date, "air_date first_air_date release_date"),
        (_one("BR", "JP", "US"), "iso_3166_1"),
        (_one("pt", "ja", "en"), "iso_639_1 original_language"),
        (_below(10**6), "id tvdb_id tvrage_id"),
        (_below(10**8), "budget revenue"),
        (_below(200), "cast_id display_priority favorite_count item_count order provider_id runtime vote_count"),
        (_below(24), "episode_count episode_number group_count season_number total_episode_count"),
        (_below(4), "gender"),
        (_up_to(10), "rating vote_average"),
        (_up_to(100), "popularity"),
        ("2021-04-01T12:00:00.000Z", "created_at published_at time updated_at"),
        ("https://stand-in.example/", "link url"),
    )
    for key in keys.split()
}


def _keys(keys: str, **own: Any) -> Record:
    """A shape with these keys and their usual values, and with the keys in `own`."""
    return {key: _VALUES[key] for key in keys.split()} | own


def _ordered(shape: Record) -> Record:
    """The shape in TMDB's order: alphabetical, but for the networks."""
    return dict(sorted(shape.items(), key=lambda entry: entry[0].replace("networks", "next_networks")))


def _page(row: Record) -> Record:
    return {"page": 1, "results": _many(row, 1, 21), "total_pages": 1, "total_results": 20}


_NAMED: Final = _keys("id", name=_one("Drama", "Comédia", "ミステリー", 'salt & "sugar"'))
_COMPANY: Final = _keys(
    "id logo_path", name=_one("Farol Filmes", "海辺映画", "Sal \\ Sons"), origin_country=_one("", "JP")
)
_EPISODE: Final = _keys(
    "air_date episode_number id name overview production_code runtime season_number still_path vote_average vote_count",
    episode_type="standard",
    show_id=_show_id,
)
_SEASON: Final = _keys(
    "episode_count id name overview poster_path season_number vote_average", air_date=_one(None, _date)
)
_PERSON: Final = _keys(
    "adult gender id original_name popularity profile_path", known_for_department="Acting", name=_person
)
_LISTED: Final = "adult backdrop_path original_language popularity poster_path softcore vote_average vote_count"
_LISTED_MOVIE: Final = _keys(f"{_LISTED} original_title release_date title video", id=_tmdb_id, overview=_story)
_LISTED_TV: Final = _keys(
    f"{_LISTED} first_air_date",
    id=_tmdb_id,
    name=_title,
    original_name=_title,
    origin_country=_single("JP", "BR", "US"),
    overview=_story,
)
_WHOLE: Final = _keys(
    "homepage tagline",
    genres=[_NAMED],
    origin_country=_single("JP", "BR", "US"),
    production_companies=_many(_COMPANY, 1, 10),
    production_countries=_single({"iso_3166_1": "JP", "name": "Japan"}, {"iso_3166_1": "BR", "name": "Brazil"}),
    spoken_languages=_single({"english_name": "Portuguese", "iso_639_1": "pt", "name": "Português"}),
)
MOVIE: Final = _ordered(
    _LISTED_MOVIE
    | _WHOLE
    | _keys(
        "budget revenue runtime",
        belongs_to_collection=_one(None, None, None, _keys("id name poster_path backdrop_path")),
        imdb_id=lambda of: None if share("null", of.tt) < NULL else of.tt,
        status="Released",
    )
)
TV: Final = _ordered(
    _LISTED_TV
    | _WHOLE
    | {
        "created_by": [_keys("credit_id gender id original_name profile_path", name=_person)],
        "episode_run_time": _one([], [_below(90)]),
        "in_production": _if_running(yes=True, no=False),
        "languages": _single("ja", "pt", "en"),
        "last_air_date": _one(None, _date),
        "last_episode_to_air": _EPISODE,
        "networks": [_COMPANY],
        "next_episode_to_air": _if_running(_EPISODE | {"runtime": None, "still_path": None}, None),
        "number_of_episodes": 0,
        "number_of_seasons": 0,
        "seasons": _many(_SEASON, 3, 70),
        "status": _if_running("Returning Series", "Ended"),
        "type": "Scripted",
    }
)
FOUND: Final[Mapping[str, Record]] = {
    "movie": _LISTED_MOVIE | {"genre_ids": [_below(99)], "media_type": "movie"},
    "tv": _LISTED_TV | {"genre_ids": [_below(99)], "media_type": "tv"},
    "episode": _EPISODE | {"id": _tmdb_id, "media_type": "tv_episode"},
    "season": _SEASON | {"id": _tmdb_id, "media_type": "tv_season", "show_id": _show_id},
}

_LOCAL: Final = "iso_3166_1 iso_639_1 name"
_CREW: Final = _PERSON | _keys("credit_id", department="Sound", job=_one("Foley", "Boom Operator"))
_TAGGED: Final = {"file_path": "/stand-in.jpg", "iso_3166_1": None, "iso_639_1": _one(None, "pt")}
_IMAGES: Final = _many(_keys("vote_average vote_count", aspect_ratio=1.778, height=1080, width=1920, **_TAGGED), 1, 30)
_OFFER: Final = [_keys("display_priority logo_path provider_id provider_name")]
_OUTSIDE: Final = _keys("facebook_id instagram_id twitter_id wikidata_id", imdb_id=lambda of: of.tt)
_PARTS: Final[Mapping[str, Record]] = {
    "changes": {"changes": [{"key": "overview", "items": [_keys("id iso_639_1 time value", action="updated")]}]},
    "images": {"backdrops": _IMAGES, "logos": _IMAGES, "posters": _IMAGES},
    "lists": _page(_keys(f"description favorite_count id item_count poster_path {_LOCAL}", list_type="movie")),
    "reviews": _page(
        _keys(
            "author content created_at updated_at url",
            author_details=_keys("avatar_path name username", rating=_one(None, 7.0)),
            id=_hex,
        )
    ),
    "videos": {
        "results": [_keys(f"key official published_at {_LOCAL}", id=_hex, site="YouTube", size=1080, type="Trailer")]
    },
    "watch/providers": {
        "results": {"BR": _keys("link", flatrate=_OFFER, rent=_OFFER), "JP": _keys("link", buy=_OFFER)}
    },
}
_TRANSLATED: Final = f"english_name {_LOCAL}"
# developer.themoviedb.org/reference/movie-details.
MOVIE_PARTS: Final[Mapping[str, Record]] = {
    **_PARTS,
    "alternative_titles": {"titles": [_keys("iso_3166_1 title", type="")]},
    "credits": {
        "cast": _many(_PERSON | _keys("cast_id character credit_id order"), 20, 300),
        "crew": _many(_CREW, 20, 500),
    },
    "external_ids": _OUTSIDE,
    "keywords": {"keywords": _many(_NAMED, 2, 30)},
    "recommendations": _page(FOUND["movie"] | {"id": _below(10**6)}),
    "release_dates": {
        "results": [
            {
                "iso_3166_1": "BR",
                "release_dates": [
                    _keys(
                        "certification iso_639_1 note", descriptors=[], release_date="2021-04-01T00:00:00.000Z", type=3
                    )
                ],
            }
        ]
    },
    "similar": _page(_LISTED_MOVIE | {"genre_ids": [_below(99)], "id": _below(10**6)}),
    "translations": {
        "translations": [_keys(_TRANSLATED, data=_keys("homepage overview runtime tagline title"))],
    },
}
# developer.themoviedb.org/reference/tv-series-details
TV_PARTS: Final[Mapping[str, Record]] = {
    **_PARTS,
    "aggregate_credits": {
        "cast": _many(
            _PERSON | _keys("order total_episode_count", roles=[_keys("character credit_id episode_count")]), 20, 300
        ),
        "crew": _many(
            _PERSON
            | _keys("total_episode_count", department="Sound", jobs=[_keys("credit_id episode_count", job="Foley")]),
            20,
            500,
        ),
    },
    "alternative_titles": {"results": [_keys("iso_3166_1 title", type="")]},
    "content_ratings": {"results": [_keys("iso_3166_1", descriptors=[], rating="14")]},
    "credits": {
        "cast": _many(_PERSON | _keys("character credit_id order"), 20, 100),
        "crew": _many(_CREW, 20, 100),
    },
    "episode_groups": {
        "results": [_keys("description episode_count group_count name", id=_hex, network=_one(None, _COMPANY), type=3)]
    },
    "external_ids": _OUTSIDE | _keys("tvdb_id tvrage_id", freebase_id=None, freebase_mid=None),
    "keywords": {"results": _many(_NAMED, 2, 30)},
    "recommendations": _page(FOUND["tv"] | {"id": _below(10**6)}),
    "screened_theatrically": {"results": [_keys("episode_number id season_number")]},
    "similar": _page(_LISTED_TV | {"genre_ids": [_below(99)], "id": _below(10**6)}),
    "translations": {"translations": [_keys(_TRANSLATED, data=_keys("homepage name overview tagline"))]},
}
