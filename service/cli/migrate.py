"""`migrate`: the schema of an operator's own database."""

from service import migrations
from service.cli.output import AsJson, fail, show
from service.cli.settings import load_settings
from service.config import ConfigurationError, required_database


def migrate(as_json: AsJson = False) -> None:
    """Bring the database of DATABASE_URL to the newest schema."""
    try:
        migrations.upgrade(required_database(load_settings()))
    except (ConfigurationError, OSError) as error:
        fail(str(error), as_json=as_json)
    show({"status": "migrated", "revision": migrations.newest_revision()}, as_json=as_json)
