"""What a closed hour swears to about its entries, and how far hours are closed.

No version before this one has written an hour: the columns are added to an empty table.
"""

import datetime

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0006_sworn_ledger'),
    ]

    operations = [
        migrations.CreateModel(
            name='LedgerClosing',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('closed_until', models.DateTimeField(help_text='All hours before it are closed.')),
            ],
        ),
        migrations.AddField(
            model_name='ledgerhour',
            name='entries_digest',
            field=models.CharField(default='', help_text='SHA-256 of the entries as they are exported, hexadecimal.', max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='ledgerhour',
            name='latest_admitted_at',
            field=models.DateTimeField(default=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)),
            preserve_default=False,
        ),
    ]
