from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateway", "0002_ledger"),
    ]

    operations = [
        migrations.AlterField(
            model_name="api",
            name="upstream_url",
            field=models.CharField(
                help_text="Scheme, host, port and base path of the private backend.",
                max_length=500,
            ),
        ),
        migrations.AlterField(
            model_name="api",
            name="test_upstream_url",
            field=models.CharField(
                blank=True,
                help_text="Where test keys go; empty: the same backend.",
                max_length=500,
            ),
        ),
    ]
