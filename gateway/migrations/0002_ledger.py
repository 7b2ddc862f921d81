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
"""


class Migration(migrations.Migration):
    dependencies = [("gateway", "0001_initial")]

    operations = [
        migrations.RunSQL(LEDGER, reverse_sql="DROP TABLE gateway_usageevent"),
        migrations.AlterModelTable(name="usageevent", table=None),
        migrations.AlterModelOptions(
            name="usageevent", options={"ordering": ["-admitted_at", "-id"]}
        ),
        migrations.AddIndex(
            model_name="usageevent",
            index=models.Index(fields=["account_id", "-admitted_at"], name="usageevent_recent"),
        ),
    ]
