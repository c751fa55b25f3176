"""`scrapy_spider.py URL TITLES IN_FLIGHT FILE`: Scrapy with its feed export, to compare the harvest with.

With its defaults, except: IN_FLIGHT requests at once, also to one host; no delay; and no log line per request, as its
manual advises for large crawls.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import scrapy
from scrapy.crawler import CrawlerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import TextResponse

KEY = "57a4d10557a4d10557a4d10557a4d105"


class Titles(scrapy.Spider):
    """Requests all titles; an item is a record."""

    name = "titles"
    url: str
    titles: int

    async def start(self) -> AsyncIterator[Any]:
        """The requests; Scrapy takes the next one when it has capacity."""
        for number in range(1, self.titles + 1):
            yield scrapy.Request(f"{self.url}/movie/tt{number:07d}?api_key={KEY}")

    def parse(self, response: TextResponse) -> Iterator[Any]:
        """The record in a response."""
        yield response.json()


def main(url: str, titles: int, in_flight: int, file: str) -> None:
    """Crawl all titles into the file."""
    process = CrawlerProcess(
        {
            "CONCURRENT_REQUESTS": in_flight,
            "CONCURRENT_REQUESTS_PER_DOMAIN": in_flight,
            "DOWNLOAD_DELAY": 0,
            "AUTOTHROTTLE_ENABLED": False,
            "ROBOTSTXT_OBEY": False,
            "TELNETCONSOLE_ENABLED": False,
            "REMOTE_CONTROL_ENABLED": False,
            "LOG_LEVEL": "INFO",
            "FEEDS": {file: {"format": "jsonlines"}},
        }
    )
    process.crawl(Titles, url=url, titles=titles)
    process.start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
