from django.db import migrations, models

FROM_LEDGER = """
INSERT INTO gateway_creditday (account_id, day, credits)
SELECT account_id, (admitted_at AT TIME ZONE 'UTC')::date, sum(drawn::bigint)
FROM gateway_usageevent, jsonb_each_text(credits) AS parts(grant_id, drawn)
WHERE jsonb_typeof(credits) = 'object'
GROUP BY 1, 2
"""


class Migration(migrations.Migration):
    dependencies = [("gateway", "0010_operation_scope")]

    operations = [
        migrations.CreateModel(
            "CreditDay",
            [
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("account_id", models.UUIDField()),
                ("day", models.DateField()),
                ("credits", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("account_id", "day"), name="creditday_unique"
                    )
                ]
            },
        ),
        migrations.RunSQL(FROM_LEDGER, migrations.RunSQL.noop),
    ]
