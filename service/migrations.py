"""Applying the migrations that lie beside the package."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

_PLACES = (Path(__file__).parent.parent, Path(__file__).parent)


def upgrade(database_url: str) -> None:
    """Bring the schema to the newest revision; safe to run from several processes at once."""
    command.upgrade(_config(database_url), "head")


def newest_revision() -> str:
    """The revision that this version of the service works with."""
    head = ScriptDirectory.from_config(_config("")).get_current_head()
    assert head is not None
    return head


def _config(database_url: str) -> Config:
    place = next((place for place in _PLACES if (place / "alembic.ini").exists()), None)
    if place is None:
        raise FileNotFoundError("alembic.ini is missing beside the package")
    config = Config(place / "alembic.ini")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config
