"""Terms lose the list of features, which nothing has read."""

from django.db import migrations

WITHOUT = "UPDATE keys_entitlement SET terms = terms - 'features'"
WITH = """UPDATE keys_entitlement SET terms = terms || '{"features": []}' WHERE terms <> '{}'"""


class Migration(migrations.Migration):
    dependencies = [("keys", "0002_initial")]

    operations = [migrations.RunSQL(WITHOUT, WITH)]
