"""Users in Brazil: the older Portuguese names, accents in paths and titles, and the short README in Portuguese."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from conftest import client_of
from shells import Shell, kept
from test_readme import ROOT, SET_UP, commands

from harvester.fakes.catalog import catalog_of
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.settings.settings import ALL_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.fakes.s3_server import S3Server
    from harvester.store.s3 import Bucket

GUIDE = (ROOT / "README.pt-BR.md").read_text(encoding="utf-8")


async def test_a_env_file_in_portuguese_uploads_and_harvests(s3: S3Server, bucket: Bucket, tmp_path: Path) -> None:
    """Only the older names, credentials in lower case as the lab shows them, and a folder with accents."""
    csv = tmp_path / "Filmes e séries" / "produção.csv"
    csv.parent.mkdir()
    csv.write_text("id|tituloPincipal\ntt0317248|Cidade de Deus\ntt0140888|Central do Brasil\n", encoding="utf-8")
    titles = {"tt0317248": ("Cidade de Deus", "2002"), "tt0140888": ("Central do Brasil – edição", "1998")}
    async with fake_tmdb(catalog=catalog_of(titles, {}, missing=0)) as tmdb:
        lines = {
            "TMDB_API_KEY": KEY,
            "TMDB_BASE_URL": tmdb.url,
            "NOME_DO_BUCKET_S3": bucket.name,
            "REGIAO_DO_BUCKET": "us-east-1",
            "CAMINHO_DO_ARQUIVO_LOCAL_MOVIES": str(csv),
            "aws_access_key_id": s3.access_key,
            "aws_secret_access_key": s3.secret_key,
            "aws_session_token": "",
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
        }
        text = "".join(f'{name}="{value}"\n' for name, value in lines.items())
        (tmp_path / ".env").write_text(text, encoding="utf-8")
        async with Shell(kept(), tmp_path).start("upload", "--then-harvest", "--json") as running:
            ended = await running.ended()
    assert ended.code == 0, ended
    report = ended.result
    assert (report["upload"]["files"][0]["source"], report["status"]) == (str(csv), "closed")
    key = report["upload"]["files"][0]["url"].removeprefix(f"s3://{bucket.name}/")
    assert await bucket.read(key) == csv.read_bytes()
    [landed] = await bucket.objects("Raw/API/Movies/")
    records = [json.loads(line) for line in (await bucket.read(landed) or b"").decode("utf-8").splitlines()]
    assert [record["title"] for record in records] == [title for title, _ in titles.values()]


async def test_the_name_of_a_profile_in_portuguese_is_that_of_a_profile(
    s3: S3Server, bucket: Bucket, tmp_path: Path
) -> None:
    """NOME_DO_PERFIL_SSO chooses the credentials, as AWS_PROFILE does."""
    secrets = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    (tmp_path / "config").write_text(f"[profile aluna]\nregion = us-east-1\n{secrets}", encoding="utf-8")
    environment = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
        "NOME_DO_PERFIL_SSO": "aluna",
        "NOME_DO_BUCKET_S3": bucket.name,
    }
    async with client_of(s3) as client:
        await client.put_object(Bucket=bucket.name, Key="filmes.csv", Body=b"id\ntt0317248\n")
    shell = Shell(kept() | environment, tmp_path)
    async with shell.start("plan", "--movies", f"s3://{bucket.name}/filmes.csv", "--json") as running:
        ended = await running.ended()
    assert (ended.code, ended.result["input"]["Movies"]["ids"]) == (0, 1), ended


def test_the_guide_in_portuguese_names_only_what_there_is() -> None:
    """Its commands, settings and exit codes are those of the harvester, and of the README."""
    assert SET_UP[0] in GUIDE
    assert set(re.findall(r"-m harvester ([a-z]+)", GUIDE)) <= set(commands())
    assert set(re.findall(r"^([A-Za-z_]+)=", GUIDE, re.MULTILINE)) <= {*ALL_NAMES}
    english = (ROOT / "README.md").read_text(encoding="utf-8")
    codes = re.compile(r"^\| (\d+) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)
    assert codes.findall(GUIDE) == codes.findall(english)
    for link in re.findall(r"\]\(([^)#]+)", GUIDE):
        assert link.startswith("https://") or (ROOT / link).exists(), link
