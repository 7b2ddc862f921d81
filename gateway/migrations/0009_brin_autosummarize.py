"""The months' index on the ledger's own time takes in new pages as they fill.

Until a page is summarized every question about the last minutes reads it, and vacuum comes by
after a fifth of a month has been added. Postgres keeps no such option for the ledger as a whole:
`gateway.partitions` sets it on the months that it makes. Changes the catalogue only.
"""

from django.db import migrations

OF_ALL_MONTHS = """
DO $$
DECLARE
    name regclass;
BEGIN
    FOR name IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'usageevent_recorded'::regclass
    LOOP
        EXECUTE format('ALTER INDEX %s {change}', name);
    END LOOP;
END $$
"""


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0008_counters'),
    ]

    operations = [
        migrations.RunSQL(
            OF_ALL_MONTHS.replace('{change}', 'SET (autosummarize = on)'),
            OF_ALL_MONTHS.replace('{change}', 'RESET (autosummarize)'),
        ),
    ]
