from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0021_drift")]

    operations = [
        migrations.AddField(
            "autotopup",
            "amount_minor",
            models.PositiveBigIntegerField(
                default=0, help_text="For so many credits; minor units."
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            "autotopup",
            "credits",
            models.PositiveBigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField(
            "autotopup",
            "currency",
            models.CharField(default="USD", max_length=3),
            preserve_default=False,
        ),
        migrations.AlterField(
            "autotopup",
            "paused_because",
            models.CharField(
                blank=True, help_text="Nothing is bought until it is resumed.", max_length=200
            ),
        ),
        migrations.AddField(
            "creditgrant",
            "taken_back_at",
            models.DateTimeField(
                blank=True,
                help_text="Nothing is drawn of it since.",
                null=True,
            ),
        ),
    ]
