"""The ledger's table: range partitions by admission, which Django can't declare by itself."""

from django.db import migrations, models

LEDGER = """
CREATE TABLE gateway_usageevent (
    id uuid NOT NULL,
    admitted_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    account_id uuid NOT NULL,
    key_id uuid NOT NULL,
    api varchar(40) NOT NULL,
    operation varchar(311) NOT NULL,
    mode varchar(4) NOT NULL,
    outcome varchar(9) NOT NULL,
    status smallint NOT NULL,
    code varchar(40) NOT NULL,
    billable boolean NOT NULL,
    units jsonb NOT NULL,
    metadata jsonb NOT NULL,
    latency_us bigint NOT NULL,
    upstream_us bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    period_start timestamptz NOT NULL,
    terms_id varchar(40) NOT NULL,
    PRIMARY KEY (id, admitted_at)
) PARTITION BY RANGE (admitted_at);
CREATE INDEX usageevent_recent ON gateway_usageevent (account_id, admitted_at DESC);
"""


class Migration(migrations.Migration):
    dependencies = [("gateway", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(LEDGER, reverse_sql="DROP TABLE gateway_usageevent")
            ],
            state_operations=[
                migrations.CreateModel(
                    name="UsageEvent",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "id",
                                "admitted_at",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("id", models.UUIDField(editable=False)),
                        ("admitted_at", models.DateTimeField()),
                        ("recorded_at", models.DateTimeField()),
                        ("account_id", models.UUIDField()),
                        ("key_id", models.UUIDField()),
                        ("api", models.CharField(max_length=40)),
                        ("operation", models.CharField(max_length=311)),
                        (
                            "mode",
                            models.CharField(
                                choices=[("live", "live"), ("test", "test")], max_length=4
                            ),
                        ),
                        (
                            "outcome",
                            models.CharField(
                                choices=[
                                    ("completed", "completed"),
                                    ("abandoned", "abandoned by a gateway that died"),
                                ],
                                max_length=9,
                            ),
                        ),
                        (
                            "status",
                            models.SmallIntegerField(
                                help_text="As the client saw it; 0: abandoned."
                            ),
                        ),
                        (
                            "code",
                            models.CharField(
                                blank=True, help_text="The gateway's own error.", max_length=40
                            ),
                        ),
                        ("billable", models.BooleanField()),
                        ("units", models.JSONField(help_text="Units by meter, integers.")),
                        ("metadata", models.JSONField(default=dict)),
                        ("latency_us", models.BigIntegerField()),
                        ("upstream_us", models.BigIntegerField()),
                        ("request_bytes", models.BigIntegerField()),
                        ("response_bytes", models.BigIntegerField()),
                        ("period_start", models.DateTimeField()),
                        ("terms_id", models.CharField(max_length=40)),
                    ],
                    options={
                        "ordering": ["-admitted_at", "-id"],
                        "indexes": [
                            models.Index(
                                fields=["account_id", "-admitted_at"], name="usageevent_recent"
                            )
                        ],
                    },
                ),
            ],
        )
    ]
