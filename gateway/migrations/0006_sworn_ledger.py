"""The ledger's own clock and chained hours, reported uses, dimensions and latencies."""

import django.contrib.postgres.indexes
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0005_backends'),
    ]

    operations = [
        migrations.CreateModel(
            name='LatencyRollup',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('quarter', models.DateTimeField(help_text='Start of the quarter hour of admission, UTC.')),
                ('account_id', models.UUIDField()),
                ('api', models.CharField(max_length=40)),
                ('operation', models.CharField(max_length=311)),
                ('mode', models.CharField(choices=[('live', 'live'), ('test', 'test')], max_length=4)),
                ('bucket', models.SmallIntegerField(help_text='Of gateway.histogram.')),
                ('calls', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='LedgerClock',
            fields=[
                ('partition', models.PositiveSmallIntegerField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='LedgerHour',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('account_id', models.UUIDField()),
                ('hour', models.DateTimeField(help_text='Start of the hour of `recorded_at`, UTC.')),
                ('entries', models.PositiveIntegerField()),
                ('totals', models.JSONField(help_text='Live usage by period, terms, API, operation, meter and dimensions.')),
                ('earliest_admitted_at', models.DateTimeField()),
                ('previous', models.CharField(help_text='Digest of the hour before; the first: “”.', max_length=64)),
                ('digest', models.CharField(help_text='SHA-256, hexadecimal.', max_length=64)),
                ('closed_at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='ReportedEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('account_id', models.UUIDField()),
                ('event_id', models.CharField(max_length=100)),
                ('usage_id', models.UUIDField(help_text='Of its row in the ledger.')),
                ('admitted_at', models.DateTimeField(help_text='When it happened, as reported.')),
                ('content', models.CharField(help_text='SHA-256 of what was reported.', max_length=64)),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='usagerollup',
            name='rollup_unique',
        ),
        migrations.AddField(
            model_name='api',
            name='unbilled_statuses',
            field=models.JSONField(blank=True, db_default=models.Value([], models.JSONField()), default=list, help_text='Statuses below 500 that cost nothing: [404, 409]. 408 and 429 never do.'),
        ),
        migrations.AddField(
            model_name='meter',
            name='dimensions',
            field=models.JSONField(blank=True, db_default=models.Value([], models.JSONField()), default=list, help_text='Metadata that usage is summed by, and a price may depend on: ["model"].'),
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='dimensions',
            field=models.TextField(db_default='', default='', help_text="The meter's dimensions of the call as JSON, keys sorted; empty: none."),
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='request_bytes_sum',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AlterField(
            model_name='usageevent',
            name='outcome',
            field=models.CharField(choices=[('completed', 'completed'), ('abandoned', 'abandoned by a gateway that died'), ('reported', 'reported later by the backend; no call of its own')], max_length=9),
        ),
        migrations.AlterField(
            model_name='usageevent',
            name='recorded_at',
            field=models.DateTimeField(help_text='When it entered the ledger: never earlier than any row that was there.'),
        ),
        migrations.AddIndex(
            model_name='usageevent',
            index=django.contrib.postgres.indexes.BrinIndex(fields=['recorded_at'], name='usageevent_recorded'),
        ),
        migrations.AddConstraint(
            model_name='usagerollup',
            constraint=models.UniqueConstraint(fields=('account_id', 'quarter', 'key_id', 'api', 'operation', 'meter', 'dimensions', 'status_class', 'mode', 'period_start', 'terms_id'), name='rollup_unique'),
        ),
        migrations.AddConstraint(
            model_name='latencyrollup',
            constraint=models.UniqueConstraint(fields=('account_id', 'quarter', 'api', 'operation', 'mode', 'bucket'), name='latencyrollup_unique'),
        ),
        migrations.AddConstraint(
            model_name='ledgerhour',
            constraint=models.UniqueConstraint(fields=('account_id', 'hour'), name='ledgerhour_unique'),
        ),
        migrations.AddConstraint(
            model_name='reportedevent',
            constraint=models.UniqueConstraint(fields=('account_id', 'event_id'), name='reportedevent_unique'),
        ),
    ]
