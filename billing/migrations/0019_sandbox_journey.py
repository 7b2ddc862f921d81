"""How far the demo's clock is to go (billing.rehearsal)."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_price_moves")]

    operations = [
        migrations.CreateModel(
            name="SandboxJourney",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("began_at", models.DateTimeField()),
                ("until", models.DateTimeField()),
            ],
        ),
    ]
