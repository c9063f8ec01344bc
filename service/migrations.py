"""Applying the migrations: in a checkout they lie beside the package, in a wheel inside it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

_HERE = Path(__file__).parent
_PLACES = (_HERE / "schema", _HERE.parent / "migrations")


def upgrade(database_url: str) -> None:
    """Bring the schema to the newest revision; safe to run from several processes at once."""
    command.upgrade(_config(database_url), "head")


def newest_revision() -> str:
    """The revision that this version of the service works with."""
    head = ScriptDirectory.from_config(_config("")).get_current_head()
    assert head is not None
    return head


def _config(database_url: str) -> Config:
    place = next((place for place in _PLACES if (place / "env.py").exists()), None)
    if place is None:
        raise FileNotFoundError("the migrations are missing from the package")
    config = Config()
    config.set_main_option("script_location", str(place).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config
